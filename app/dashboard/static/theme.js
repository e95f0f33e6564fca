// Before the first paint, so that nothing flashes: the theme that was chosen, else the system's.
(function () {
  let chosen = null;
  try { chosen = localStorage.getItem("engram-theme"); } catch { /* storage may be switched off */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
