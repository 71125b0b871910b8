-- The open version of each index.
SELECT Index, Close, Adj_Close, effective_date
FROM silver.close_price
WHERE end_date IS NULL
