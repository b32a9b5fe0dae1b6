// Light or dark before the first paint: what was chosen here, else what the system prefers. A classic script, because a module
// would run after it.
(() => {
  const KEY = "spillway-theme";
  const root = document.documentElement;
  const chosen = () => {
    try { return localStorage.getItem(KEY); } catch { return null; }
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => { root.dataset.theme = chosen() ?? (system.matches ? "dark" : "light"); };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-act=theme]")) return;
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem(KEY, next); } catch { /* not kept, then */ }
    root.dataset.theme = next;
  });
})();
