-- Every day's close beside the newest one. A message that was sent twice counts once; a day whose messages contradict
-- each other has no close, as in silver.close_price; a day of an index without a current close stays.
WITH days AS (
  SELECT Index, Date, max(Close) AS Close, max(Adj_Close) AS Adj_Close
  FROM silver.stocks
  GROUP BY Index, Date
  HAVING min(Close) = max(Close)
    AND (count(Adj_Close) = 0 OR (count(Adj_Close) = count(*) AND min(Adj_Close) = max(Adj_Close)))
)
SELECT d.Index, d.Date, d.Close, d.Adj_Close, c.Close AS Latest_Close, c.Adj_Close AS Latest_Adj_Close
FROM days AS d
LEFT JOIN silver.current_close AS c ON c.Index = d.Index
