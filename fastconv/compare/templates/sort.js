"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const place = head.cellIndex, up = head.getAttribute("aria-sort") !== "ascending";
    const key = (row) => {
      const cell = row.cells[place], given = cell.dataset.key;
      return given === undefined ? cell.textContent.trim() : given === "" ? NaN : Number(given);
    };
    const before = (a, b) => {
      if (typeof a === "string") return a.localeCompare(b);
      return Number.isNaN(a) ? (Number.isNaN(b) ? 0 : Infinity) : Number.isNaN(b) ? -Infinity : a - b;
    };
    const rows = [...body.rows].sort((a, b) => {
      const order = before(key(a), key(b));
      return Number.isFinite(order) ? (up ? order : -order) : order > 0 ? 1 : -1;
    });
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows);
  });
}
