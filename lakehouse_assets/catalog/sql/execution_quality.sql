-- Execution quality by symbol and day, over trades that had a quote with both sides. A buy (side B) pays the ask, a sale
-- gets the bid: better than that is an improvement. Sums are of decimals, so they do not depend on the order of rows.
WITH judged AS (
  SELECT
    date,
    sym,
    size,
    CAST(ask AS DECIMAL(18, 6)) - CAST(bid AS DECIMAL(18, 6)) AS quoted,
    abs(2 * CAST(price AS DECIMAL(18, 6)) - CAST(ask AS DECIMAL(18, 6)) - CAST(bid AS DECIMAL(18, 6))) AS effective,
    CASE
      WHEN side = 'B' THEN CAST(ask AS DECIMAL(18, 6)) - CAST(price AS DECIMAL(18, 6))
      ELSE CAST(price AS DECIMAL(18, 6)) - CAST(bid AS DECIMAL(18, 6))
    END AS improvement
  FROM silver.trades_with_quotes
  WHERE sym IS NOT NULL AND price IS NOT NULL AND bid IS NOT NULL AND ask IS NOT NULL
)
SELECT
  date,
  sym,
  count(*) AS trades,
  sum(size) AS volume,
  CAST(sum(quoted) AS DOUBLE) / CAST(count(*) AS DOUBLE) AS quoted_spread,
  CAST(sum(effective) AS DOUBLE) / CAST(count(*) AS DOUBLE) AS effective_spread,
  CAST(sum(improvement) AS DOUBLE) / CAST(count(*) AS DOUBLE) AS price_improvement,
  CAST(count_if(improvement >= 0) AS DOUBLE) / CAST(count(*) AS DOUBLE) AS at_or_inside
FROM judged
GROUP BY date, sym
