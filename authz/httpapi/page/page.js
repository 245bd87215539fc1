// Replaces the part of the page that changes by itself. The server renders it, so
// that the page is the same without this script.
"use strict";
(() => {
  const interval = 2000; // ms
  const status = document.getElementById("status");
  const mark = (text, state) => {
    if (status.textContent !== text) status.textContent = text; // a screen reader says it
    status.className = "badge " + state;
  };

  const reading = (live) => !getSelection().isCollapsed && live.contains(getSelection().anchorNode);

  const refresh = async () => {
    try {
      const reply = await fetch("/live" + location.search, { signal: AbortSignal.timeout(5000) });
      if (reply.status === 401) return location.assign("/login");
      if (!reply.ok) throw new Error(reply.status);
      const next = new DOMParser().parseFromString(await reply.text(), "text/html").getElementById("live");
      const live = document.getElementById("live");
      const focused = live.contains(document.activeElement) && document.activeElement.getAttribute("href");
      if (!reading(live)) live.replaceWith(next);
      if (focused) next.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
      mark(next.dataset.status.replaceAll("_", " "), next.dataset.state);
      document.body.classList.remove("lost");
    } catch {
      mark("unreachable", "bad"); // what is shown is old
      document.body.classList.add("lost");
    }
    document.body.dataset.polls = String(Number(document.body.dataset.polls || 0) + 1);
  };

  const poll = async () => {
    if (!document.hidden) await refresh();
    setTimeout(poll, interval);
  };
  setTimeout(poll, interval);
})();
