// The figures of a page: dark on a dark page, names of layers that stay in sight, and a map that leads to its steps.
"use strict";

const onDark = matchMedia("screen and (prefers-color-scheme: dark)");

const pageColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// -- colours ------------------------------------------------------------------------------------------------

// Plotly draws for a white page; only where the page is or was dark, the figure takes the colours of the page.
function paint(figure) {
  if (!onDark.matches && !figure.dataset.painted) return;
  figure.dataset.painted = "yes";
  const [ink, soft, back, line, grey] = ["--ink", "--soft", "--back", "--line", "--grey"].map(pageColor);
  const layout = { paper_bgcolor: back, plot_bgcolor: back, "font.color": ink };
  for (const axis of Object.keys(figure.layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    layout[`${axis}.gridcolor`] = layout[`${axis}.zerolinecolor`] = line;
  }
  if (figure.layout.sliders) {
    Object.assign(layout, { "sliders[0].bgcolor": line, "sliders[0].activebgcolor": soft });
    Object.assign(layout, { "sliders[0].bordercolor": soft, "sliders[0].tickcolor": soft });
  }
  Plotly.relayout(figure, layout);
  figure.data.forEach((trace, number) => {
    if (trace.name === "unreadable") {
      Plotly.restyle(figure, { colorscale: [[[0, grey], [1, grey]]], "textfont.color": soft }, [number]);
    } else if (trace.name?.startsWith("hatched")) {
      Plotly.restyle(figure, { "marker.color": back, "marker.pattern.bgcolor": back, "marker.pattern.fgcolor": grey }, [number]);
    } else if (trace.marker?.symbol === "square-open") { // the entry of a frame in the legend
      Plotly.restyle(figure, { "marker.color": ink }, [number]);
    }
  });
}

// -- names of layers ----------------------------------------------------------------------------------------

// Once a wide figure is scrolled, its names of rows stand at the left edge all the same.
function keepNames(figure) {
  const box = figure.closest(".figure");
  const names = document.createElement("div");
  names.className = "names";
  names.setAttribute("aria-hidden", "true"); // the figure has them already
  box.prepend(names);
  const draw = () => {
    names.replaceChildren();
    if (box.scrollLeft === 0) return;
    const { l, t, h } = figure._fullLayout._size;
    const top = figure.getBoundingClientRect().top;
    const panel = document.createElement("div");
    Object.assign(panel.style, { width: `${l}px`, top: `${t - 8}px`, height: `${h + 16}px` });
    for (const label of figure.querySelectorAll(".ytick text")) {
      const { top: above, height } = label.getBoundingClientRect();
      const name = document.createElement("span");
      name.textContent = label.textContent;
      name.style.top = `${above + height / 2 - top - t + 8}px`;
      panel.append(name);
    }
    names.append(panel);
  };
  box.addEventListener("scroll", draw, { passive: true });
  figure.on("plotly_afterplot", draw);
}

// -- steps --------------------------------------------------------------------------------------------------

const AT_ONCE = { mode: "immediate", frame: { duration: 0, redraw: true }, transition: { duration: 0 } };

function markColumn(map, number) {
  const edges = { x0: number - 0.5, x1: number + 0.5, y0: 0, y1: 1, yref: "paper" };
  Plotly.relayout(map, { shapes: [{ type: "rect", ...edges, line: { color: "#D55E00", width: 3 } }] });
}

// A click on a column of the map shows its step: in the figures with a slider, or on a page of its own.
function linkSteps(map, figures) {
  const stepFigures = figures.filter((figure) => figure.layout.sliders);
  map.classList.add("linked");
  map.on("plotly_click", ({ points }) => {
    const number = Math.round(points[0].x);
    if (!stepFigures.length) {
      location.href = `step-${String(number + 1).padStart(4, "0")}.html`;
      return;
    }
    for (const figure of stepFigures) {
      Plotly.animate(figure, [String(number)], AT_ONCE);
      Plotly.relayout(figure, { "sliders[0].active": number });
    }
    markColumn(map, number);
    stepFigures[0].closest(".figure").scrollIntoView({ block: "start" });
  });
  for (const figure of stepFigures) {
    figure.on("plotly_sliderchange", ({ step }) => markColumn(map, Number(step.args[0][0])));
  }
}

document.addEventListener("DOMContentLoaded", () => {
  const figures = [...document.querySelectorAll(".plotly-graph-div")];
  const paintAll = () => figures.forEach(paint);
  figures.forEach(keepNames);
  const map = document.getElementById("heatmap");
  if (map) linkSteps(map, figures);
  onDark.onchange = matchMedia("print").onchange = paintAll;
  paintAll();
  document.body.dataset.ready = "yes";
});
