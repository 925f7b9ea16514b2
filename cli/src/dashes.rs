//! Flags as katran's programs take them, for a parser that does not.
//!
//! katran's client (Go's flag package) and server (gflags) take long names behind one dash or two
//! (`-lru`, `--lru`), with the value behind `=` or as the next word, and switches with or without a value
//! (`-lru`, `-lru=false`; gflags also `-nolru`). clap takes `-lru` for `-l -r -u`. So arguments are
//! rewritten first, by what the clap command itself says of its flags: every known flag becomes
//! `--name=value`. What is unknown is left to clap, which refuses it and suggests near names.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command, builder::ValueParser};

/// Whose rules apply where they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Go's flag package.
    Go,
    /// gflags: `-noNAME` switches `NAME` off.
    Gflags,
}

/// A switch: `-name` or `-name=true` and `-name=false`.
#[must_use]
pub fn switch(name: &'static str, default: bool, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::Set)
        .require_equals(true)
        .num_args(1)
        .value_name("BOOL")
        .default_value(if default { "true" } else { "false" })
        .hide_default_value(!default)
        .value_parser(ValueParser::new(parse_bool))
        .help(help)
}

/// The words for true and false of both dialects.
fn parse_bool(word: &str) -> Result<bool, String> {
    match word.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" => Ok(true),
        "0" | "f" | "false" | "n" | "no" => Ok(false),
        _ => Err("a switch is true or false".to_owned()),
    }
}

/// Rewrites arguments (the first is the program's name) for `command`.
#[must_use]
pub fn rewrite(
    command: &Command,
    dialect: Dialect,
    args: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut out: Vec<OsString> = args.next().into_iter().collect();
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            break;
        }
        out.push(rewrite_one(command, dialect, arg, &mut args));
    }
    out.extend(args);
    out
}

fn rewrite_one(
    command: &Command,
    dialect: Dialect,
    arg: OsString,
    rest: &mut impl Iterator<Item = OsString>,
) -> OsString {
    let Some((name, value)) = arg.to_str().and_then(split) else {
        return arg;
    };
    if name == "help" || name == "version" {
        return format!("--{name}").into();
    }
    if let Some(flag) = find(command, name) {
        let joined = |value: &OsStr| {
            let mut joined = OsString::from(format!("--{name}="));
            joined.push(value);
            joined
        };
        return match value {
            Some(value) => joined(OsStr::new(value)),
            None if is_switch(flag) => joined(OsStr::new("true")),
            None => match rest.next() {
                Some(value) => joined(&value),
                None => format!("--{name}").into(),
            },
        };
    }
    let switched_off = name
        .strip_prefix("no")
        .filter(|_| dialect == Dialect::Gflags);
    match switched_off.filter(|name| find(command, name).is_some_and(is_switch)) {
        Some(name) => format!("--{name}=false").into(),
        // One letter stays a short flag (`-h`); a word must not become several.
        None if name.chars().count() == 1 => arg,
        None => match value {
            Some(value) => format!("--{name}={value}").into(),
            None => format!("--{name}").into(),
        },
    }
}

/// A flag's name and the value behind `=`.
fn split(arg: &str) -> Option<(&str, Option<&str>)> {
    let word = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic());
    is_name.then_some((name, value))
}

fn find<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(name))
}

/// Whether a flag needs no value; such are made by [`switch`].
fn is_switch(arg: &Arg) -> bool {
    arg.is_require_equals_set()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let text = |name: &'static str| Arg::new(name).long(name);
        let switches = [
            switch("lru", false, ""),
            switch("hc_forwarding", true, ""),
            switch("s", false, ""),
        ];
        Command::new("test")
            .args(switches)
            .args([text("t"), text("lru_size")])
    }

    fn rewritten(dialect: Dialect, line: &str) -> String {
        let args = line.split_whitespace().map(OsString::from);
        let out = rewrite(&command(), dialect, args);
        let words: Vec<_> = out.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn spellings() {
        for (line, expected) in [
            ("p -lru", "p --lru=true"),
            ("p --lru", "p --lru=true"),
            ("p -lru=false --lru=1", "p --lru=false --lru=1"),
            (
                "p -s -lru -t 1.2.3.4:80",
                "p --s=true --lru=true --t=1.2.3.4:80",
            ),
            ("p -t=[fc00::1]:80", "p --t=[fc00::1]:80"),
            ("p --lru_size 5 -s", "p --lru_size=5 --s=true"),
            ("p -lru_size -5", "p --lru_size=-5"),
            ("p -t -lru", "p --t=-lru"),
            ("p -t", "p --t"),
            ("p -t=", "p --t="),
            ("p -help --help -h", "p --help --help -h"),
            (
                "p -unknown --unknown=3 word",
                "p --unknown --unknown=3 word",
            ),
            ("p -lru -- -lru", "p --lru=true -- -lru"),
            ("p - -5", "p - -5"),
            ("", ""),
        ] {
            assert_eq!(rewritten(Dialect::Go, line), expected, "{line}");
        }
    }

    #[test]
    fn only_gflags_switches_off_with_no() {
        let line = "p -nohc_forwarding --nolru -not";
        assert_eq!(
            rewritten(Dialect::Gflags, line),
            "p --hc_forwarding=false --lru=false --not"
        );
        assert_eq!(
            rewritten(Dialect::Go, line),
            "p --nohc_forwarding --nolru --not"
        );
    }

    #[test]
    fn switches_take_the_words_of_both() {
        let parsed = |line: &str| {
            let args = rewrite(
                &command(),
                Dialect::Gflags,
                line.split(' ').map(OsString::from),
            );
            let matches = command().try_get_matches_from(args).ok()?;
            matches.get_one::<bool>("lru").copied()
        };
        assert_eq!(parsed("p"), Some(false));
        for word in [
            "-lru",
            "-lru=TRUE",
            "-lru=1",
            "-lru=t",
            "-lru=yes",
            "-lru=Y",
        ] {
            assert_eq!(parsed(&format!("p {word}")), Some(true), "{word}");
        }
        for word in ["-lru=False", "-lru=0", "-lru=f", "-lru=no", "-nolru"] {
            assert_eq!(parsed(&format!("p {word}")), Some(false), "{word}");
        }
        assert_eq!(parsed("p -lru=maybe"), None);
        assert_eq!(
            parsed("p -lru false"),
            None,
            "a value needs `=`, as in both dialects"
        );
    }
}
