-- Readings of a sensor at a place, by the hour: windows of 60 minutes, UTC.
-- Averages are exact decimal sums, divided once and rounded: no order of rows and no engine changes their last digit.
SELECT
  date_trunc('HOUR', timestamp) AS start_window,
  date_trunc('HOUR', timestamp) + INTERVAL 1 HOUR AS end_window,
  sensor_id,
  location,
  reading_date,
  min(temperature) AS temperature_min,
  max(temperature) AS temperature_max,
  round(CAST(sum(CAST(temperature AS DECIMAL(18, 6))) AS DOUBLE) / count(temperature), 6) AS temperature_avg,
  min(humidity) AS humidity_min,
  max(humidity) AS humidity_max,
  round(CAST(sum(CAST(humidity AS DECIMAL(18, 6))) AS DOUBLE) / count(humidity), 6) AS humidity_avg,
  min(pressure) AS pressure_min,
  max(pressure) AS pressure_max,
  round(CAST(sum(CAST(pressure AS DECIMAL(18, 6))) AS DOUBLE) / count(pressure), 6) AS pressure_avg,
  min(vibration) AS vibration_min,
  max(vibration) AS vibration_max,
  round(CAST(sum(CAST(vibration AS DECIMAL(18, 6))) AS DOUBLE) / count(vibration), 6) AS vibration_avg,
  min(voltage) AS voltage_min,
  max(voltage) AS voltage_max,
  round(CAST(sum(CAST(voltage AS DECIMAL(18, 6))) AS DOUBLE) / count(voltage), 6) AS voltage_avg,
  count(*) AS reading_count
FROM silver.sensor_readings
GROUP BY date_trunc('HOUR', timestamp), sensor_id, location, reading_date
