//! Where squalus keeps what stays in the kernel, and the words for how programs are attached.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use squalus_kernel::{Attachments, Mode};

/// A directory of a bpf file system.
#[derive(Debug, Args)]
pub struct Place {
    /// Directory in a bpf file system where attachments (`links`) and maps that objects share by name (`maps`)
    /// have their files.
    #[arg(long, value_name = "DIR", default_value_os_t = squalus_kernel::default_directory())]
    bpffs: PathBuf,
}

impl Place {
    /// The attachments there.
    pub fn attachments(&self) -> Attachments {
        Attachments::in_directory(self.bpffs.join("links"))
    }

    /// The directory of shared maps.
    pub fn maps(&self) -> PathBuf {
        self.bpffs.join("maps")
    }
}

/// Where on its way a frame meets the program, in xdp-loader's words and others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeWord {
    /// In the driver if it can, else in the network stack.
    #[value(alias = "auto")]
    Unspecified,
    /// In the driver.
    #[value(aliases = ["driver", "drv", "xdpdrv"])]
    Native,
    /// In the network stack: works on any interface, slower.
    #[value(aliases = ["generic", "xdpgeneric"])]
    Skb,
    /// On the network card.
    #[value(aliases = ["hardware", "offload", "xdpoffload"])]
    Hw,
}

impl ModeWord {
    pub fn mode(self) -> Mode {
        match self {
            ModeWord::Unspecified => Mode::Auto,
            ModeWord::Native => Mode::Native,
            ModeWord::Skb => Mode::Generic,
            ModeWord::Hw => Mode::Hardware,
        }
    }
}

/// A mode obtained, as xdp-loader says it.
pub fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "unspecified",
        Mode::Native => "native",
        Mode::Generic => "skb",
        Mode::Hardware => "hw",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_the_words_of_all_tools() {
        for (words, mode) in [
            (&["unspecified", "auto", "UNSPECIFIED"][..], Mode::Auto),
            (
                &["native", "drv", "driver", "xdpdrv", "Native"],
                Mode::Native,
            ),
            (&["skb", "SKB", "generic", "xdpgeneric"], Mode::Generic),
            (
                &["hw", "HW", "offload", "hardware", "xdpoffload"],
                Mode::Hardware,
            ),
        ] {
            for text in words {
                let parsed = ModeWord::from_str(text, true).map(ModeWord::mode);
                assert_eq!(parsed, Ok(mode), "{text}");
            }
            assert!(words.contains(&word(mode)));
        }
        assert!(ModeWord::from_str("fast", true).is_err());
    }
}
