//! Experiments: engines and backends side by side.
