-- The close that the history holds for each trading day, beside the newest one. A message that was sent twice counts
-- once; a day whose messages contradict each other is left out until that is resolved; a day of an index that the
-- history does not know yet stays, with its close as sent.
WITH days AS (
  SELECT d.Index, d.Date, max(d.Close) AS Close, max(d.Adj_Close) AS Adj_Close
  FROM silver.stocks AS d
  LEFT ANTI JOIN silver.close_price_quarantine AS q ON q.Index = d.Index AND q.Date = d.Date
  GROUP BY d.Index, d.Date
), placed AS (
  SELECT Index, Date, Close, Adj_Close, is_day, max(since) OVER (PARTITION BY Index ORDER BY Date) AS since
  FROM (
    SELECT Index, Date, Close, Adj_Close, true AS is_day, CAST(NULL AS DATE) AS since
    FROM days
    UNION ALL
    SELECT Index, effective_date AS Date, Close, Adj_Close, false AS is_day, effective_date AS since
    FROM silver.close_price
  ) AS both
)
SELECT
  p.Index,
  p.Date,
  CASE WHEN v.Index IS NULL THEN p.Close ELSE v.Close END AS Close,
  CASE WHEN v.Index IS NULL THEN p.Adj_Close ELSE v.Adj_Close END AS Adj_Close,
  c.Close AS Latest_Close,
  c.Adj_Close AS Latest_Adj_Close
FROM placed AS p
LEFT JOIN silver.close_price AS v ON v.Index = p.Index AND v.effective_date = p.since
LEFT JOIN silver.current_close AS c ON c.Index = p.Index
WHERE p.is_day
