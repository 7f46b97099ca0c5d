// The tools above the curves, light and dark, and printing.

function watchTools() {
  const by = (id) => document.getElementById(id);
  by("tools").hidden = false;
  by("tools").addEventListener("submit", (event) => event.preventDefault());
  by("smoothing").addEventListener("input", (event) => {
    view.smooth = Number(event.target.value);
    by("smoothing-shown").textContent = view.smooth.toFixed(2);
    drawAll();
  });
  for (const name of ["axis", "scale"]) {
    by(name).addEventListener("change", (event) => {
      view[name] = event.target.value;
      drawAll();
    });
  }
  for (const id of ["from", "to"]) {
    by(id).addEventListener("change", () => show(Number(by("from").value), Number(by("to").value)));
  }
  by("whole").addEventListener("click", showWhole);
  for (const box of document.querySelectorAll("[data-kind]")) {
    const sign = box.parentElement.querySelector(".sign");
    element("path", { d: SIGNS[box.dataset.kind], transform: "translate(6,6)" }, sign);
    box.addEventListener("change", () => {
      if (box.checked) view.hidden.delete(box.dataset.kind);
      else view.hidden.add(box.dataset.kind);
      drawAll();
    });
  }
}

function watchTheme() {
  const choice = document.getElementById("theme");
  const remember = (theme) => {
    try {
      if (theme === undefined) return localStorage.getItem("lumina-theme") || "";
      localStorage.setItem("lumina-theme", theme);
    } catch { /* A page opened from a disk may not be allowed to remember anything. */ }
    return theme || "";
  };
  const apply = (theme) => {
    choice.value = theme;
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  choice.addEventListener("change", () => apply(remember(choice.value)));
  apply(remember());
}

// Paper cannot be opened further: everything is shown on it.
function watchPrinting() {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((one) => { one.open = true; });
    view.at = null;
    tellAll();
  });
  window.addEventListener("afterprint", () => {
    opened.forEach((one) => { one.open = false; });
  });
}

watchTheme();
watchPrinting();
if (charts.length) {
  watchTools();
  charts.forEach((chart) => {
    watchPointer(chart);
    watchKeys(chart);
  });
  showWhole();
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    drawAll();
  });
}
