// Before anything is drawn, so that a chosen theme does not flash.
try {
  const theme = localStorage.getItem("hadal.theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // a browser that keeps nothing: the system's theme
}
