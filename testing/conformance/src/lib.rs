//! One suite of cases, many engines.
