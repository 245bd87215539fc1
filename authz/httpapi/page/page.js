// Polls /stats.json and shows the change between two polls. Text from the server
// becomes text content only, never markup.
"use strict";
(() => {
  const interval = 2000, retained = 60; // ms; polls in the chart
  const at = (id) => document.getElementById(id);
  const history = [];
  let last = null;

  const short = (s) => (s < 1e-3 ? (s * 1e6).toFixed(0) + " µs" : s < 1 ? (s * 1e3).toFixed(1) + " ms" : s.toFixed(1) + " s");
  const rate = (n) => (n >= 100 ? n.toFixed(0) : n.toFixed(1));

  // quantile of a cumulative histogram between two polls
  const quantile = (now, then, q) => {
    const total = now.count - (then ? then.count : 0);
    if (total <= 0) return null;
    let below = 0, lower = 0;
    for (let i = 0; i < now.buckets.length; i++) {
      const [upper, count] = now.buckets[i];
      const seen = count - (then && then.buckets[i] ? then.buckets[i][1] : 0);
      if (seen >= q * total) return lower + (upper - lower) * ((q * total - below) / Math.max(seen - below, 1));
      below = seen;
      lower = upper;
    }
    return lower;
  };

  const row = (cells, className) => {
    const tr = document.createElement("tr");
    if (className) tr.className = className;
    for (const [text, kind] of cells) {
      const td = document.createElement("td");
      if (kind === "badge") {
        const span = document.createElement("span");
        span.className = "badge " + text;
        span.textContent = text;
        td.append(span);
      } else if (kind === "part") {
        const b = document.createElement("b"), span = document.createElement("span");
        b.textContent = text[0];
        span.textContent = text[1];
        td.append(b, " ", span);
      } else {
        td.textContent = text;
        if (kind) td.className = kind;
      }
      tr.append(td);
    }
    return tr;
  };

  const draw = () => {
    const top = Math.max(1, ...history.map((h) => h.all));
    for (const [id, name] of [["line-all", "all"], ["line-denied", "denied"]]) {
      at(id).setAttribute("points", history.map((h, i) => (600 - (history.length - 1 - i) * (600 / (retained - 1))).toFixed(1) + "," + (58 - 56 * (h[name] / top)).toFixed(1)).join(" "));
    }
  };

  const show = (now) => {
    const dt = last ? (now.at - last.at) / 1000 : 0;
    const before = new Map(last ? last.stats.decisions.map((d) => [d.reason, d.count]) : []);
    let all = 0, denied = 0;
    const rows = now.stats.decisions.map((d) => {
      const r = dt ? Math.max(0, d.count - (before.get(d.reason) || 0)) / dt : 0;
      all += r;
      if (!d.allowed) denied += r;
      return row([[d.reason.replaceAll("_", " ")], [d.count.toFixed(0), "n"], [dt ? rate(r) : "–", "n"]], d.allowed ? "good" : "denied");
    });
    if (rows.length) at("decisions").tBodies[0].replaceChildren(...rows);
    at("parts").tBodies[0].replaceChildren(...now.stats.parts.map((p) => row([[p.state, "badge"], [[p.name, p.detail], "part"]])));
    const status = at("status");
    status.textContent = now.stats.status.replaceAll("_", " ");
    status.className = "badge " + now.stats.status;
    if (dt) {
      history.push({ all, denied });
      if (history.length > retained) history.shift();
      at("rate").textContent = rate(all);
      at("allowed").textContent = all ? (100 * (1 - denied / all)).toFixed(1) + " %" : "–";
      for (const [id, q] of [["p50", 0.5], ["p99", 0.99]]) {
        const v = quantile(now.stats.latency, last.stats.latency, q);
        at(id).textContent = v === null ? "–" : short(v);
      }
      draw();
    }
    document.body.dataset.polls = String(Number(document.body.dataset.polls || 0) + 1);
  };

  const poll = async () => {
    try {
      const reply = await fetch("/stats.json", { headers: { Accept: "application/json" } });
      if (reply.status === 401) return location.assign("/login");
      if (!reply.ok) throw new Error(reply.status);
      const now = { at: performance.now(), stats: await reply.json() };
      show(now);
      last = now;
    } catch {
      const status = at("status");
      status.textContent = "unreachable";
      status.className = "badge bad";
    }
    setTimeout(poll, interval);
  };
  poll();
})();
