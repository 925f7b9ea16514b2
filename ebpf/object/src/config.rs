//! The kernel's configuration, as far as programs may ask for it (`.kconfig`).
//!
//! The rules are libbpf's. A value is `y`, `m` or `n`, a number, or text in double quotes; the type of the extern
//! says what of that it takes. What the configuration does not have is zero for weak externs, and an error for
//! others. Names with `LINUX_` are not from the configuration: they tell of the running kernel itself.

use std::collections::HashMap;

/// What the host's kernel is like. See [`host::config`](crate::host::config) for the running one.
#[derive(Clone, Debug, Default)]
pub struct HostConfig {
    version: u32,
    options: HashMap<String, String>,
}

impl HostConfig {
    /// A kernel of this version, as `KERNEL_VERSION(a, b, c)` counts: 16 bits and more of the first number, 8 of
    /// the second, 8 of the third.
    #[must_use]
    pub fn new(version: u32) -> HostConfig {
        HostConfig {
            version,
            options: HashMap::new(),
        }
    }

    /// The version number of a release such as `6.1.0-25-amd64`; `None` if it does not begin like one.
    #[must_use]
    pub fn version_of(release: &str) -> Option<u32> {
        let mut numbers = release.trim().splitn(3, '.').map(|part| {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            part.get(..digits)?.parse::<u32>().ok()
        });
        let major = numbers.next()??.min(0xffff);
        let minor = numbers.next()??.min(0xff);
        let patch = numbers.next().flatten().unwrap_or(0).min(0xff);
        Some(major << 16 | minor << 8 | patch)
    }

    /// Adds the options of a configuration file: lines `CONFIG_NAME=value`; all others are passed over.
    pub fn add_options(&mut self, text: &str) {
        let options = text.lines().filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            name.starts_with("CONFIG_")
                .then(|| (name.to_owned(), value.trim_end().to_owned()))
        });
        self.options.extend(options);
    }

    /// Sets one option, as the configuration file would state it: `y`, `m`, a number, or text in double quotes.
    pub fn set_option(&mut self, name: &str, value: &str) {
        self.options.insert(name.into(), value.into());
    }

    /// What a `LINUX_` name stands for.
    fn virtual_value(&self, name: &str) -> Option<u64> {
        const BPF_COOKIE: u32 = 5 << 16 | 15 << 8;
        const SYSCALL_WRAPPER: u32 = 4 << 16 | 17 << 8;
        match name {
            "LINUX_KERNEL_VERSION" => Some(self.version.into()),
            "LINUX_HAS_BPF_COOKIE" => Some((self.version >= BPF_COOKIE).into()),
            "LINUX_HAS_SYSCALL_WRAPPER" => Some((self.version >= SYSCALL_WRAPPER).into()),
            _ => None,
        }
    }
}

/// What an extern in `.kconfig` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConfigKind {
    Bool,
    Char { signed: bool },
    Int { signed: bool },
    Tristate,
    Text,
}

/// An extern in `.kconfig`.
#[derive(Clone, Debug)]
pub(crate) struct ConfigExtern {
    pub(crate) name: String,
    pub(crate) weak: bool,
    pub(crate) kind: ConfigKind,
    /// Its place in the map's value.
    pub(crate) offset: u32,
    pub(crate) size: u32,
}

impl ConfigExtern {
    /// Its bytes for a host, as many as it has.
    ///
    /// # Errors
    /// Why it has no value there.
    pub(crate) fn bytes(&self, host: &HostConfig) -> Result<Vec<u8>, String> {
        let mut bytes = match self.value(host)? {
            None => Vec::new(),
            Some(Value::Number(number)) => self.number(number)?,
            Some(Value::Text(text)) => self.text(&text)?,
            Some(Value::Switch(switch)) => self.switch(switch)?,
        };
        bytes.resize(self.size as usize, 0);
        Ok(bytes)
    }

    fn value(&self, host: &HostConfig) -> Result<Option<Value>, String> {
        let absent = |reason: String| if self.weak { Ok(None) } else { Err(reason) };
        if let Some(number) = host.virtual_value(&self.name) {
            return Ok(Some(Value::Number(number)));
        }
        if !self.name.starts_with("CONFIG_") {
            return absent("no such value is known; names begin with CONFIG_, or are LINUX_KERNEL_VERSION, LINUX_HAS_BPF_COOKIE or LINUX_HAS_SYSCALL_WRAPPER".into());
        }
        match host.options.get(&self.name) {
            Some(text) => Value::parse(text).map(Some),
            None => absent("the kernel's configuration does not set it; declare it __weak and test for zero, or load the object on a kernel that has it".into()),
        }
    }

    fn number(&self, number: u64) -> Result<Vec<u8>, String> {
        let signed = match self.kind {
            ConfigKind::Int { signed } | ConfigKind::Char { signed } => signed,
            // The kernel's version and features, which are numbers, fit a bool too.
            ConfigKind::Bool if number <= 1 => false,
            _ => return Err(format!("it is the number {number}, the extern is none")),
        };
        let bits = 8 * self.size;
        let fits = match (bits, signed) {
            (64.., _) => true,
            (_, true) => number.wrapping_add(1 << (bits - 1)) < 1 << bits,
            (_, false) => number >> bits == 0,
        };
        if !fits {
            return Err(format!(
                "it is {number}, which {} bytes don't hold",
                self.size
            ));
        }
        Ok(number.to_le_bytes()[..self.size.min(8) as usize].to_vec())
    }

    /// Text is cut to what the extern holds, with a final zero.
    fn text(&self, text: &str) -> Result<Vec<u8>, String> {
        if self.kind != ConfigKind::Text {
            return Err(format!(
                "it is the text {text:?}, the extern is no array of char"
            ));
        }
        let room = self.size.saturating_sub(1) as usize;
        Ok(text.bytes().take(room).collect())
    }

    fn switch(&self, switch: u8) -> Result<Vec<u8>, String> {
        match (self.kind, switch) {
            (ConfigKind::Bool, b'm') => Err(
                "it is `m`, which a bool does not hold; declare it as enum libbpf_tristate".into(),
            ),
            (ConfigKind::Bool, _) => Ok(vec![u8::from(switch == b'y')]),
            (ConfigKind::Tristate, b'y') => Ok(vec![1]),
            (ConfigKind::Tristate, b'm') => Ok(vec![2]),
            (ConfigKind::Tristate, _) => Ok(vec![0]),
            (ConfigKind::Char { .. }, _) => Ok(vec![switch]),
            _ => Err(format!(
                "it is `{}`, which needs a bool, a char or enum libbpf_tristate",
                char::from(switch)
            )),
        }
    }
}

/// A value of the configuration.
enum Value {
    /// `y`, `m` or `n`.
    Switch(u8),
    Number(u64),
    Text(String),
}

impl Value {
    fn parse(text: &str) -> Result<Value, String> {
        match text.as_bytes() {
            [switch @ (b'y' | b'n' | b'm')] => return Ok(Value::Switch(*switch)),
            [b'"', text @ .., b'"'] => {
                return Ok(Value::Text(String::from_utf8_lossy(text).into_owned()));
            }
            _ => {}
        }
        number(text).map(Value::Number).ok_or_else(|| {
            format!("its value {text:?} is neither y, m or n, nor a number, nor text in quotes")
        })
    }
}

/// A number as C writes it: decimal, octal with `0`, hexadecimal with `0x`, perhaps negative.
fn number(text: &str) -> Option<u64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let magnitude = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8).ok()?
    } else {
        digits.parse().ok()?
    };
    Some(if negative {
        magnitude.wrapping_neg()
    } else {
        magnitude
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kind: ConfigKind, size: u32, value: &str) -> Result<Vec<u8>, String> {
        let mut host = HostConfig::new(0);
        host.set_option("CONFIG_X", value);
        let name = "CONFIG_X".into();
        let (weak, offset) = (false, 0);
        ConfigExtern {
            name,
            weak,
            kind,
            offset,
            size,
        }
        .bytes(&host)
    }

    #[test]
    fn values_must_fit_their_type() {
        let int = ConfigKind::Int { signed: false };
        let signed = ConfigKind::Int { signed: true };
        assert_eq!(value(int, 2, "0x1234"), Ok(vec![0x34, 0x12]));
        assert_eq!(value(int, 2, "65535"), Ok(vec![0xff, 0xff]));
        assert!(value(int, 2, "65536").is_err());
        assert_eq!(value(signed, 2, "-2"), Ok(vec![0xfe, 0xff]));
        assert!(value(signed, 2, "32768").is_err());
        assert_eq!(value(int, 8, "0xffffffffffffffff"), Ok(vec![0xff; 8]));
        assert_eq!(value(int, 4, "010"), Ok(vec![8, 0, 0, 0]));
        assert!(value(int, 4, "y").is_err());
        assert!(value(int, 4, "12z").is_err());
    }

    #[test]
    fn switches_are_bools_tristates_or_chars() {
        assert_eq!(value(ConfigKind::Bool, 1, "y"), Ok(vec![1]));
        assert_eq!(value(ConfigKind::Bool, 1, "n"), Ok(vec![0]));
        assert!(value(ConfigKind::Bool, 1, "m").is_err());
        assert_eq!(value(ConfigKind::Tristate, 4, "m"), Ok(vec![2, 0, 0, 0]));
        assert_eq!(value(ConfigKind::Tristate, 4, "y"), Ok(vec![1, 0, 0, 0]));
        let char = ConfigKind::Char { signed: true };
        assert_eq!(value(char, 1, "m"), Ok(vec![b'm']));
        assert_eq!(value(char, 1, "7"), Ok(vec![7]));
    }

    #[test]
    fn text_is_cut_to_its_room() {
        assert_eq!(
            value(ConfigKind::Text, 6, "\"abc\""),
            Ok(b"abc\0\0\0".to_vec())
        );
        assert_eq!(value(ConfigKind::Text, 3, "\"abc\""), Ok(b"ab\0".to_vec()));
        assert!(value(ConfigKind::Text, 3, "\"abc").is_err());
        assert!(value(ConfigKind::Bool, 1, "\"y\"").is_err());
    }

    #[test]
    fn versions_are_read_from_releases() {
        let version = HostConfig::version_of;
        assert_eq!(version("6.18.44-fc"), Some(6 << 16 | 18 << 8 | 44));
        assert_eq!(version("5.4"), Some(5 << 16 | 4 << 8));
        assert_eq!(version("4.19.300-rc1"), Some(4 << 16 | 19 << 8 | 255));
        assert_eq!(version("Linux"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn files_of_options_are_read_by_lines() {
        let mut host = HostConfig::new(0);
        host.add_options("# CONFIG_A is not set\nCONFIG_B=y\nnoise\nCONFIG_C=\"x=y\"\n");
        assert_eq!(host.options.len(), 2);
        assert_eq!(host.options["CONFIG_C"], "\"x=y\"");
    }
}
