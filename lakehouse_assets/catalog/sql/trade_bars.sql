-- Bars of trades. A bar stands where there was a trade: gaps are not filled, and no bar spans two dates. A trade without
-- symbol, price or size is in no bar. Sums are of decimals, so they do not depend on the order of rows.
WITH traded AS (
  SELECT date, sym, time_ns, _row, CAST(price AS DECIMAL(18, 6)) AS price, size, unix_seconds(time) AS second
  FROM silver.trades_with_quotes
  WHERE sym IS NOT NULL AND price IS NOT NULL AND size > 0
), placed AS (
  SELECT date, sym, '1m' AS width, timestamp_seconds(second div 60 * 60) AS bar_start, time_ns, _row, price, size
  FROM traded
  UNION ALL
  SELECT date, sym, '5m' AS width, timestamp_seconds(second div 300 * 300) AS bar_start, time_ns, _row, price, size
  FROM traded
  UNION ALL
  SELECT date, sym, '1d' AS width, CAST(date AS TIMESTAMP) AS bar_start, time_ns, _row, price, size
  FROM traded
), ranked AS (
  SELECT
    date, sym, width, bar_start, price, size,
    row_number() OVER (PARTITION BY date, sym, width, bar_start ORDER BY time_ns, _row) AS from_first,
    row_number() OVER (PARTITION BY date, sym, width, bar_start ORDER BY time_ns DESC, _row DESC) AS from_last
  FROM placed
)
SELECT
  date,
  sym,
  width,
  bar_start,
  max(CASE WHEN from_first = 1 THEN price END) AS open,
  max(price) AS high,
  min(price) AS low,
  max(CASE WHEN from_last = 1 THEN price END) AS close,
  sum(size) AS volume,
  CAST(sum(price * CAST(size AS DECIMAL(18, 0))) AS DOUBLE) / CAST(sum(size) AS DOUBLE) AS vwap,
  count(*) AS trades
FROM ranked
GROUP BY date, sym, width, bar_start
