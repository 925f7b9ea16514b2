//! What every userspace engine shares: frames, environment, helpers.
