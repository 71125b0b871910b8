-- Returns of an index, of the days that have a close (see stocks_close.sql) above zero.
WITH prices AS (
  SELECT Index, Date, coalesce(Adj_Close, Close) AS price
  FROM silver.stocks_close
  WHERE coalesce(Adj_Close, Close) > 0
), days AS (
  SELECT
    Index,
    Date,
    CAST(trunc(Date, 'MONTH') AS DATE) AS month,
    price,
    lag(price) OVER (PARTITION BY Index ORDER BY Date) AS day_before,
    max(price) OVER (PARTITION BY Index ORDER BY Date) AS highest,
    row_number() OVER (PARTITION BY Index, trunc(Date, 'MONTH') ORDER BY Date DESC) AS from_last
  FROM prices
), months AS (
  SELECT Index, month, lag(price) OVER (PARTITION BY Index ORDER BY month) AS month_before
  FROM days
  WHERE from_last = 1
)
SELECT
  d.Index,
  d.Date,
  d.price,
  CAST(d.price AS DOUBLE) / CAST(d.day_before AS DOUBLE) - 1 AS daily_return,
  CAST(d.price AS DOUBLE) / CAST(m.month_before AS DOUBLE) - 1 AS monthly_return,
  CAST(d.price AS DOUBLE) / CAST(d.highest AS DOUBLE) - 1 AS drawdown
FROM days AS d
JOIN months AS m ON m.Index = d.Index AND m.month = d.month
