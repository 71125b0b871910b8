-- How far each day's close is from the newest one, exact to the sixth decimal.
SELECT Index, Date, Close, Adj_Close, Latest_Close, Latest_Adj_Close, Latest_Close - Close AS Close_Diff
FROM silver.stocks_close
