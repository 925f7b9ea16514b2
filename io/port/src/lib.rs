//! Frames and ports: how packets come and go.
