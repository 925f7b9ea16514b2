//! Header views and builders.
