(() => {
  "use strict";
  const SCALE = { "µs": 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600, k: 1e3, M: 1e6, G: 1e9, x: 1, "%": 1 };
  const NUMBER = /^[<~+\s]*(-?(?:\d[\d,]*)?\.?\d+(?:e[-+]?\d+)?)\s*(µs|ms|min|s|h|k|M|G|x|%)?(?![\w.])/;
  const ABSENT = new Set(["", "-", "not run", "failed", "never trained", "not recorded"]);

  const textOf = (row, column) => {
    const cell = row.cells[column];
    return cell ? (cell.querySelector(".state") || cell).textContent.trim() : "";
  };
  const numberOf = (text) => {
    const found = NUMBER.exec(text);
    return found ? Number(found[1].replaceAll(",", "")) * (SCALE[found[2]] || 1) : NaN;
  };
  /* A column holds numbers if most of its cells do; names in the first one may begin with a digit. */
  const isNumeric = (rows, column) => {
    const present = rows.map((row) => textOf(row, column)).filter((text) => !ABSENT.has(text));
    const numbers = present.filter((text) => !Number.isNaN(numberOf(text))).length;
    return numbers > 0 && (column ? 2 * numbers > present.length : numbers === present.length);
  };
  const comparison = (column, numeric, sign) => (a, b) => {
    const texts = [textOf(a, column), textOf(b, column)];
    const values = texts.map(numberOf);
    const missing = texts.map((text, i) => (numeric ? Number.isNaN(values[i]) : ABSENT.has(text)));
    if (missing[0] || missing[1]) return missing[0] - missing[1];
    return sign * (numeric ? values[0] - values[1] : texts[0].localeCompare(texts[1], undefined, { numeric: true }));
  };

  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    /* Each group of agents is a body of its own and is sorted by itself, under its heading. */
    const bodies = [...table.tBodies].map((body) => [body, [...body.rows].filter((row) => row.cells[0].colSpan === 1)]);
    const rows = bodies.flatMap(([, own]) => own);
    if (rows.length < 2) continue;
    const sort = (head, column) => {
      const next = { ascending: "descending", descending: null }[head.ariaSort];
      const order = next === undefined ? "ascending" : next;
      for (const other of heads) other.removeAttribute("aria-sort");
      if (order) head.setAttribute("aria-sort", order);
      const compare = comparison(column, isNumeric(rows, column), order === "ascending" ? 1 : -1);
      for (const [body, own] of bodies) body.append(...(order ? own.toSorted(compare) : own));
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "sort";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(head, column));
      head.append(button);
    });
  }

  /* All films of a pair at once, for readers who have not asked for less motion. */
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
    for (const group of document.querySelectorAll(".films")) {
      const films = [...group.querySelectorAll("details.film")];
      if (films.length < 2) continue;
      const button = document.createElement("button");
      const playing = () => films.every((film) => film.open);
      const name = () => { button.textContent = playing() ? "Stop all" : "Play all together"; };
      button.type = "button";
      button.className = "all";
      button.addEventListener("click", () => {
        const open = !playing();
        for (const film of films) film.open = open;
      });
      for (const film of films) film.addEventListener("toggle", name);
      name();
      group.before(button);
    }
  }

  /* Paper has no clicks. */
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.part:not([open])")];
    for (const part of opened) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of opened) part.open = false;
  });
})();
