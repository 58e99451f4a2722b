"""A real NDIF server on this machine's loopback, without a GPU and without a network.

It runs in an environment of its own, where this package is not installed. Tests cause faults by
really causing them: they kill the model's process, or stop the API, the result store or Redis.

By hand, until Ctrl-C:

    python tests/ndif/server.py [--sandbox] [--timeout SECONDS]
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PYTHON = Path(os.environ.get("NDIF_PYTHON", HERE.parents[1] / ".venv-ndif" / "bin" / "python"))
REVISION = "0123456789abcdef0123456789abcdef01234567"

SMOLLM2 = "lens-recipes/smollm2"
TINY = "lens-recipes/tiny"
LLAVA = "lens-recipes/tiny-llava"

sys.path.insert(0, str(HERE))

from keeper import started_by  # noqa: E402


def hub_cache(home: Path, checkpoints: Mapping[str, Path]) -> Path:
    """Lay checkpoint folders out as the hub's cache below `home` (an HF_HOME); files are hard links where possible."""
    for repo, checkpoint in checkpoints.items():
        place = home / "hub" / f"models--{repo.replace('/', '--')}"
        snapshot = place / "snapshots" / REVISION
        snapshot.mkdir(parents=True, exist_ok=True)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(REVISION)
        for file in checkpoint.iterdir():
            try:
                os.link(file, snapshot / file.name)
            except OSError:  # another file system, or not ours
                shutil.copyfile(file, snapshot / file.name)
    return home


def tiny_checkpoint(place: Path, tokenizer: Path, layers: int = 4) -> Path:
    """A random Llama that speaks with the tokenizer of the checkpoint `tokenizer`."""
    import torch
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(tokenizer)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(place)
    words.save_pretrained(place)
    return place


def llava_checkpoint(place: Path, tokenizer: Path) -> Path:
    """A random LLaVA of 4 × 4 patches an image that speaks with the tokenizer of the checkpoint `tokenizer`."""
    import torch
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(
        tokenizer, extra_special_tokens={"image_token": "<image>"}
    )
    size = {"height": 56, "width": 56}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=size)
    processor = transformers.LlavaProcessor(
        images,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    narrow = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
    }
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**narrow, image_size=56, patch_size=14),
        text_config=transformers.LlamaConfig(
            **narrow,
            vocab_size=len(words),
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
        ),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlavaForConditionalGeneration(config).save_pretrained(place)
    processor.save_pretrained(place)
    return place


class ServerError(RuntimeError):
    """The server did not do what it was told; the text ends with what its processes wrote."""


class NdifServer:
    """One server: `start()`, `url`, the faults, `stop()`; or `with NdifServer(home) as server`.

    Args:
        home: An HF_HOME whose hub cache has the models (`hub_cache`).
        sandbox: Run untrusted callers' code as the public service does, where the weights are not.
            A request is trusted here unless it says `"trusted": false` itself.
        execution_timeout: Seconds that a block may run.
        keys: The API keys (UUIDs) that it knows, with the tags of each ("trusted", "priority"): it
            then takes no request without one. None: it takes every request and looks at no key.
        environment: More variables for all of the server's processes.
    """

    def __init__(
        self,
        home: Path,
        *,
        sandbox: bool = False,
        execution_timeout: float = 60,
        keys: Mapping[str, Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = Path(home)
        self.sandbox = sandbox
        self.execution_timeout = execution_timeout
        self.keys = keys
        self.more = dict(environment or {})
        self.folder = Path()
        self.ports: dict[str, int] = {}
        self.keepers: dict[str, subprocess.Popen] = {}
        self.seen: dict[int, str] = {}

    # ----------------------------------------------------------------------------------------------
    # its life

    def start(self) -> NdifServer:
        """Start everything and wait until it takes requests; what was started is stopped again if that fails."""
        if not PYTHON.exists():
            raise ServerError(
                f"{PYTHON} is not there: `make test-ndif` makes the server's environment"
            )
        self.folder = _own_folder("ndif-", Path("/tmp"))  # Ray puts sockets there: a short path
        self.ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        atexit.register(self.stop)
        try:
            (self.folder / "path").mkdir()
            shutil.copy(HERE / "ndif_cpu.py", self.folder / "path")
            if self.keys is not None:
                shutil.copy(HERE / "keys_db.py", self.folder / "path" / "asyncpg.py")
                self.more |= {
                    "NDIF_POSTGRES_URL": "postgresql://",
                    "NDIF_TEST_KEYS": json.dumps(self.keys),
                }
            (self.folder / "api.yaml").write_text("APP:\n  PYMOUNT: false\n")
            self.start_redis()
            self.start_store()
            self._start_ray()
            self.start_api()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every process, in the reverse order, and remove the folder."""
        self.processes()
        for name in reversed(list(self.keepers)):
            self._end(name)
        atexit.unregister(self.stop)
        if self.folder.name:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> NdifServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """What `remote=` takes."""
        return f"http://127.0.0.1:{self.ports['api']}"

    # ----------------------------------------------------------------------------------------------
    # faults

    def start_redis(self) -> None:
        """Start Redis, through which requests and the answers to blocking ones go."""
        port = self.ports["redis"]
        # Its limits as they come: a blocking job's result of more than 8 MiB then goes through the
        # store.
        self._run("redis", "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "")
        self._until("redis", lambda: _listens(port), 20)

    def stop_redis(self) -> None:
        """End Redis with all that waits in it; a server whose Redis was gone is to be started anew."""
        self._end("redis")

    def start_store(self) -> None:
        """Start the store of large results and of every answer to a non-blocking job; it begins empty."""
        port = self.ports["store"]
        self._run("store", PYTHON, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
        self._until("store", lambda: _listens(port), 60)
        # NDIF makes the bucket once per process, which a store that was started again does not
        # have.
        self._ask_store("PUT", "")

    def stop_store(self) -> None:
        """End the result store; what was in it is lost."""
        self._end("store")

    def start_api(self) -> None:
        """Start what clients talk to, with the dispatcher beside it, and wait until it has found Ray."""
        script = self._installed("ndif/services/api/start.sh")
        environment = {"NNSIGHT_CONFIG": str(self.folder / "api.yaml"), "NDIF_SERVICE": "api"}
        self._run("api", "bash", script, environment=environment)
        self._until("api", lambda: self.get("/connected")[0] == 200, 120, every=0.5)

    def stop_api(self) -> None:
        """End the API and its dispatcher; jobs that a model works at go on."""
        self._end("api")

    def kill_api_worker(self) -> None:
        """Kill what speaks with the clients, which lose their connections; it is back in seconds, jobs go on."""
        for pid in started_by(self.keepers["api"].pid)[1:]:
            if "gunicorn" in _title(pid):
                os.kill(pid, signal.SIGKILL)

    def model_processes(self) -> list[int]:
        """The processes that hold a model (one for each deployed model), sandboxes not among them."""
        return [
            pid for pid in started_by(self.keepers["ray"].pid) if _title(pid).startswith(_ACTORS)
        ]

    def kill_model_actor(self) -> list[int]:
        """Kill the processes that hold a model; Ray starts them again. Returns which they were."""
        killed = self.model_processes()
        if not killed:
            raise ServerError("no model is deployed: send a request first")
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        return killed

    # ----------------------------------------------------------------------------------------------
    # looking at it

    def get(self, path: str, timeout: float = 70) -> tuple[int, object]:
        """GET a path of the API: status and JSON; status 0 if nothing answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            return 0, str(error)

    def stored(self, beginning: str = "") -> list[str]:
        """The names of what the result store holds: `responses/ID.json` of every job, `ID.pt` of every result."""
        return re.findall(
            "<Key>(.*?)</Key>", self._ask_store("GET", f"?list-type=2&prefix={beginning}").decode()
        )

    def stored_bytes(self, name: str) -> bytes:
        """One of them."""
        return self._ask_store("GET", f"/{name}")

    def store(self, name: str, content: bytes) -> None:
        """Put other bytes in its place."""
        self._ask_store("PUT", f"/{name}", content)

    def python(self, code: str) -> str:
        """What `code` prints in the server's environment, as its processes find it."""
        answer = subprocess.run(
            [PYTHON, "-c", code],
            env=self._environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        return answer.stdout + answer.stderr

    def processes(self) -> dict[int, str]:
        """Every process of the server that is alive: its id, and what it is. Remembered in `seen`."""
        alive = {
            pid: _title(pid)
            for keeper in self.keepers.values()
            if keeper.poll() is None
            for pid in (keeper.pid, *started_by(keeper.pid))
        }
        self.seen.update(alive)
        return alive

    def log(self, name: str) -> str:
        """What one of "redis", "store", "ray", "controller", "api" or "models" has written."""
        if name != "models":
            return (self.folder / f"{name}.log").read_text(errors="replace")
        files = sorted((self.folder / "ray").glob("session_2*/logs/worker-*"))
        return "".join(
            f"--- {file.name}\n{text}"
            for file in files
            if (text := file.read_text(errors="replace"))
        )

    # ----------------------------------------------------------------------------------------------

    def _ask_store(self, method: str, path: str, content: bytes | None = None) -> bytes:
        """One request about the bucket; the store looks whether it is signed, but not at the signature."""
        headers = {
            "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request",
            "Content-Type": "application/octet-stream",
        }
        url = f"http://127.0.0.1:{self.ports['store']}/ndif-results{path}"
        request = urllib.request.Request(url, content, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()

    def _start_ray(self) -> None:
        port = self.ports
        resources = {
            "head": 10,
            "cuda_memory_bytes": 8_000_000_000,
            "cpu_memory_bytes": 8_000_000_000,
        }
        self._run(
            "ray", PYTHON.with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            "--num-cpus=6", "--num-gpus=1", f"--resources={json.dumps(resources)}",  # the GPU is a label
            "--object-store-memory=300000000", f"--temp-dir={self.folder / 'ray'}",
            "--include-dashboard=true", "--dashboard-host=127.0.0.1",
            *(f"--{name}={port[name]}" for name in _PORTS if name.endswith("port")),
        )  # fmt: skip
        self._until(
            "ray", lambda: _listens(port["port"]) and _listens(port["ray-client-server-port"]), 120
        )
        self._run(
            "controller", PYTHON, "-m", "ndif.services.ray.deployments.controller.controller",
            environment={"RAY_ADDRESS": f"127.0.0.1:{port['port']}"},
        )  # fmt: skip
        controller = self.keepers["controller"]
        try:
            failed = controller.wait(120)
        except subprocess.TimeoutExpired:
            failed = "no end after 120 s"
        if failed:
            raise self._failure("controller", f"returned {failed}")

    def _environment(self) -> dict[str, str]:
        port = self.ports
        actor = "CPUSandboxActor" if self.sandbox else "CPUModelActor"
        # Nothing of the caller's environment but where programs are: not its PYTHONPATH, its
        # proxies, its keys.
        return {
            "PATH": f"{PYTHON.parent}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(self.folder / "path"),
            "HF_HOME": str(self.home),
            "HF_HUB_OFFLINE": "1",
            "NDIF_REDIS_URL": f"redis://127.0.0.1:{port['redis']}",
            "NDIF_OBJECT_STORE_URL": f"http://127.0.0.1:{port['store']}",
            "NDIF_OBJECT_STORE_ACCESS_KEY": "test",
            "NDIF_OBJECT_STORE_SECRET_KEY": "test1234",
            "NDIF_API_URL": self.url,
            "GUNICORN_CMD_ARGS": f"--bind=127.0.0.1:{port['api']}",
            "NDIF_RAY_ADDRESS": f"ray://127.0.0.1:{port['ray-client-server-port']}",
            "NDIF_RAY_HEAD_PORT": str(port["port"]),
            "NDIF_RAY_TEMP_DIR": str(self.folder / "ray"),
            "NDIF_CONTROLLER_IMPORT_PATH": "ndif_cpu.CPUControllerActor",
            "NDIF_MODEL_IMPORT_PATH": f"ndif_cpu.{actor}",
            "NDIF_SANDBOX_POOL_SIZE": "1",
            "NDIF_DEFAULT_DTYPE": "float32",
            "NDIF_DEFAULT_PADDING_BIAS": "0",
            "NDIF_MINIMUM_DEPLOYMENT_TIME_SECONDS": "0",
            "NDIF_CONTROLLER_SYNC_INTERVAL_S": "5",
            "NDIF_STATUS_TTL_S": "1",  # else /status says for a minute what was
            "NDIF_DEFAULT_EXECUTION_TIMEOUT_SECONDS": str(self.execution_timeout),
            "RAY_USAGE_STATS_ENABLED": "0",
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            **self.more,
        }

    def _run(
        self, name: str, *command: str | Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start `command` under a keeper that ends it, and all it starts, when this process ends in whatever way."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.keepers[name] = subprocess.Popen(
                [sys.executable, "-S", HERE / "keeper.py", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**self._environment(), **(environment or {})},
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        keeper = self.keepers.pop(name, None)
        if keeper is not None:
            keeper.stdin.close()
            keeper.wait(60)

    def _until(
        self, name: str, ready: Callable[[], bool], seconds: float, every: float = 0.1
    ) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if self.keepers[name].poll() is not None:
                raise self._failure(name, f"ended with {self.keepers[name].returncode}")
            if time.monotonic() > end:
                raise self._failure(name, f"not ready after {seconds:.0f} s")
            time.sleep(every)

    def _failure(self, name: str, what: str) -> ServerError:
        return ServerError(f"{name}: {what}\n{self.log(name)[-4000:]}")

    def _installed(self, file: str) -> Path:
        return next((PYTHON.parents[1] / "lib").glob(f"python3*/site-packages/{file}"))


# Those that end in "port" are `ray start`'s own options.
_PORTS = (
    "redis", "store", "api", "port", "ray-client-server-port", "dashboard-port", "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port", "node-manager-port",
    "object-manager-port",
)  # fmt: skip

_ACTORS = ("ray::CPUModelActor", "ray::CPUSandboxActor")


def wait_for(what: Callable[[], object], seconds: float = 60) -> Any:
    """The first true thing that `what` gives."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.05)
    return found


def free_ports(number: int) -> list[int]:
    """Ports that nothing listens at now; below the range from which the system gives out others."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        candidate = 20000 + os.getpid() % 8000
        while len(ports) < number:
            candidate += 1
            one = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", candidate))
                ports.append(candidate)
        return ports


def _own_folder(prefix: str, parent: Path) -> Path:
    """A new folder with this process in its name; those of processes that were killed are removed."""
    for left in parent.glob(f"{prefix}[0-9]*-*"):
        if not Path(f"/proc/{left.name.removeprefix(prefix).partition('-')[0]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
            .strip()
        )
    return ""


@contextlib.contextmanager
def models() -> Iterator[Path]:
    """An HF_HOME that holds SmolLM2, a tiny model of four layers and one that takes images, removed at the end."""
    import lens_recipes.models.smollm2

    # Beside SmolLM2, where its half gigabyte can be linked.
    source = lens_recipes.models.smollm2.folder()
    place = _own_folder(".ndif-", source.parent)
    try:
        tiny = tiny_checkpoint(place / "tiny", source)
        llava = llava_checkpoint(place / "tiny-llava", source)
        yield hub_cache(place / "home", {SMOLLM2: source, TINY: tiny, LLAVA: llava})
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    """Serve until Ctrl-C."""
    options = argparse.ArgumentParser(description="A real NDIF server on loopback, until Ctrl-C.")
    options.add_argument(
        "--sandbox",
        action="store_true",
        help="run untrusted callers' code where the weights are not",
    )
    options.add_argument("--timeout", type=float, default=60, help="seconds that a block may run")
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with (
        contextlib.suppress(KeyboardInterrupt),
        models() as home,
        NdifServer(home, sandbox=chosen.sandbox, execution_timeout=chosen.timeout) as server,
    ):
        print(
            f"{server.url}\n  models: {SMOLLM2}, {TINY}\n  client: HF_HOME={home} HF_HUB_OFFLINE=1",
            flush=True,
        )
        signal.pause()


if __name__ == "__main__":
    main()
