// Unpacks plotly.js, which the page holds as base64 of gzip, and runs it before any script after this one.
(() => {
  const packed = document.getElementById("plotly-js");
  const letters = atob(packed.textContent);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const script = document.createElement("script");
  script.textContent = pako.inflate(bytes, { to: "string" });
  packed.replaceWith(script);
})();
