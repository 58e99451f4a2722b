// The items of a survey: a list that is filtered and sorted, each of which opens at a click.
// All text comes from items and tokens and is set as text, never as HTML.
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const body = $("items").tBodies[0];
  const last = data.layers.length - 1;

  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  const isolated = (tag, text, className) => {
    const made = element(tag, undefined, className);
    made.append(element("bdi", text));
    return made;
  };

  const ORDERS = {
    "as given": (a, b) => a.number - b.number,
    "best rank first": (a, b) => a.ranks[last] - b.ranks[last] || a.number - b.number,
    "worst rank first": (a, b) => b.ranks[last] - a.ranks[last] || a.number - b.number,
  };

  const groupOf = (item) => data.groups[item.group] ?? "";
  const target = (item) => item.targets.map((text) => data.texts[text]).join(" / ");
  const number = (value, digits) => (value === null ? "–" : value.toFixed(digits));

  // -- one item ---------------------------------------------------------------------------------------------

  function layersOf(item) {
    const table = element("table", undefined, "inner");
    const head = table.createTHead().insertRow();
    for (const heading of ["layer", "top token", "rank of the target", "log p", "KL"]) head.append(element("th", heading));
    const rows = table.createTBody();
    data.layers.forEach((layer, place) => {
      const row = rows.insertRow();
      if (!item.readable[place]) row.className = "unreadable";
      row.append(element("th", layer));
      const isRight = item.targets.includes(item.tops[place]);
      row.append(isolated("td", data.texts[item.tops[place]], isRight ? "right" : ""));
      row.append(element("td", item.ranks[place].toLocaleString("en")));
      row.append(element("td", number(item.logprobs[place], 2)));
      row.append(element("td", number(item.kl[place], 2)));
    });
    return table;
  }

  function detailOf(item) {
    const row = element("tr", undefined, "detail");
    const cell = row.insertCell();
    cell.colSpan = 7;
    const prompt = element("pre", item.prompt);
    prompt.dir = "auto";
    cell.append(prompt);
    if (item.cluster) cell.append(isolated("p", `cluster: ${item.cluster}`, "note"));
    cell.append(layersOf(item));
    return row;
  }

  function rowOf(item) {
    const row = element("tr");
    const first = row.insertCell();
    const button = isolated("button", item.id);
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    first.append(button);
    row.append(isolated("td", groupOf(item)));
    row.append(isolated("td", item.prompt.slice(-80), "prompt"));
    row.append(isolated("td", target(item)));
    row.append(isolated("td", data.texts[item.answer]));
    row.append(element("td", item.ranks[last].toLocaleString("en"), "number"));
    row.append(element("td", item.emerges, "number"));
    let detail = null;
    row.onclick = () => {
      if (detail) {
        detail.remove();
        detail = null;
      } else {
        detail = detailOf(item);
        row.after(detail);
      }
      row.classList.toggle("open", Boolean(detail));
      button.setAttribute("aria-expanded", String(Boolean(detail)));
    };
    return row;
  }

  // -- the list ---------------------------------------------------------------------------------------------

  function show() {
    const group = $("group").value;
    const chosen = data.items.filter((item) => group === "" || item.group === Number(group));
    chosen.sort(ORDERS[$("order").value]);
    body.replaceChildren(...chosen.map(rowOf));
    $("matched").textContent = `${chosen.length} of ${data.items.length}`;
  }

  data.items.forEach((item, place) => { item.number = place; });
  const all = element("option", "all");
  all.value = "";
  $("group").append(all);
  data.groups.forEach((name, place) => {
    const option = element("option", name);
    option.value = place;
    $("group").append(option);
  });
  $("group-label").hidden = data.groups.length === 0;
  for (const name of Object.keys(ORDERS)) $("order").append(element("option", name));
  $("order").value = "best rank first";
  $("group").onchange = $("order").onchange = show;
  show();
}
