// Runs the notebook that shows this, once, as soon as its kernel rests, and saves it, so that a reload finds what it made.
// For a JupyterLab that was started with --expose-app-in-browser; anywhere else it does nothing.
(() => {
  const app = window.jupyterapp, start = Date.now();
  const idle = () => app.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle';
  let rests = 0;
  const save = () => {
    rests = idle() ? rests + 1 : 0;
    if (rests > 8) app.commands.execute('docmanager:save'); // two quiet seconds
    else setTimeout(save, 250);
  };
  const run = () => {
    if (idle()) {
      app.commands.execute('notebook:run-all-cells');
      setTimeout(save, 250);
    } else if (Date.now() - start < 180000) setTimeout(run, 250);
  };
  if (app) run();
})();
