// A click on a head sorts by that column, numbers as numbers, and turns the order round the next time.
document.querySelectorAll("table.sortable th").forEach(head => head.onclick = () => {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const key = row => row.cells[column].textContent.trim();
  const down = head.dataset.down = head.dataset.down === "1" ? "0" : "1";
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)], [p, q] = [parseFloat(x), parseFloat(y)];
    return isNaN(p) || isNaN(q) ? x.localeCompare(y) : p - q;
  });
  if (down === "1") rows.reverse();
  rows.forEach(row => body.append(row));
});
