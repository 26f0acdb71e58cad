// Runs the notebook that shows this, once, as soon as its kernel rests, and saves it, so that a reload finds what it made.
// For a JupyterLab that was started with --expose-app-in-browser; anywhere else it does nothing.
(() => {
  const app = window.jupyterapp, start = Date.now();
  const idle = () => app.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle';
  const run = async () => {
    if (idle()) {
      await app.commands.execute('notebook:run-all-cells'); // until the last cell has ended
      await app.commands.execute('docmanager:save');
    } else if (Date.now() - start < 180000) setTimeout(run, 250);
  };
  if (app) run();
})();
