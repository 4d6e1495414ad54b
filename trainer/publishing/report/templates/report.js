"use strict";
const scheme = matchMedia("(prefers-color-scheme: dark)");
// Plotly 7 has a button that uploads a chart, and with it titles and figures, to its makers: never here.
const config = {
  responsive: true,
  displaylogo: false,
  displayModeBar: "hover",
  showSendToCloud: false,
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
};

function draw() {
  const colour = getComputedStyle(document.body).color;
  for (const figure of document.querySelectorAll("figure[data-figure]")) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    spec.layout.font.color = colour;
    const plot = figure.querySelector(".plot");
    plot.hidden = false;
    Plotly.react(plot, spec.data, spec.layout, config);
  }
}

scheme.addEventListener("change", draw);
draw();
