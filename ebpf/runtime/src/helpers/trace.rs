//! Text: `bpf_trace_printk` and its kin.
//!
//! A line goes to the worker's [`TraceLog`](crate::TraceLog), which gives it to whoever reads it.

use squalus_isa::Errno;

use super::bytes;
use crate::Env;
use crate::format::{self, MAX_ARGS, MAX_LINE};
use crate::memory::read_process;

helpers! {
    /// `bpf_trace_printk(format, size, a, b, c)`: the line's length.
    fn trace_printk(env, text, size, a, b, c) {
        // SAFETY: the module's contract.
        let text = unsafe { bytes(text, size) };
        print(env, text, &[a, b, c])
    }

    /// `bpf_trace_vprintk(format, size, args, args_size)`: the line's length.
    fn trace_vprintk(env, text, size, args, args_size) {
        // SAFETY: the module's contract.
        let (text, args) = unsafe { (bytes(text, size), bytes(args, args_size)) };
        let mut words = [0; MAX_ARGS];
        match words_of(args, &mut words) {
            Ok(words) => print(env, text, words),
            Err(errno) => errno.as_return(),
        }
    }

    /// `bpf_snprintf(out, out_size, format, args, args_size)`: the text's length with its NUL, which may be
    /// more than `out_size`.
    fn snprintf(env, out, out_size, text, args, args_size) {
        // SAFETY: the module's contract; the format has a NUL in its map value.
        let (text, args) = unsafe {
            (core::ffi::CStr::from_ptr(text as *const core::ffi::c_char), bytes(args, args_size))
        };
        let mut words = [0; MAX_ARGS];
        let prepared = words_of(args, &mut words)
            .and_then(|words| format::prepare(text.to_bytes(), words, &read_process));
        match prepared {
            Ok(args) => {
                // SAFETY: the module's contract. The format is read-only, hence no part of the output; the
                // arguments were copied.
                let out = unsafe { super::bytes_mut(out, out_size) };
                format::render(text.to_bytes(), &args, out, env.secret) as u64 + 1
            }
            Err(errno) => errno.as_return(),
        }
    }
}

/// The arguments that memory holds, eight bytes each.
fn words_of<'a>(bytes: &[u8], words: &'a mut [u64; MAX_ARGS]) -> Result<&'a [u64], Errno> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || chunks.len() > MAX_ARGS {
        return Err(Errno::EINVAL);
    }
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_ne_bytes(*chunk);
    }
    Ok(&words[..chunks.len()])
}

fn print(env: &mut Env, text: &[u8], args: &[u64]) -> u64 {
    let Some(end) = text.iter().position(|byte| *byte == 0) else {
        return Errno::EINVAL.as_return();
    };
    let text = &text[..end];
    match format::prepare(text, args, &read_process) {
        Ok(args) => {
            let mut line = [0; MAX_LINE];
            let len = format::render(text, &args, &mut line, env.secret);
            env.trace.write(&line[..len.min(MAX_LINE - 1)]);
            len as u64
        }
        Err(errno) => errno.as_return(),
    }
}
