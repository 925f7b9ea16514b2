//! The words of `bpftool prog run`: keywords in any order, each with its value.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// What the words say.
#[derive(Debug, PartialEq, Eq)]
pub struct Words {
    /// The program's name, which comes first if at all.
    pub program: Option<String>,
    pub data_in: Option<PathBuf>,
    pub data_out: Option<PathBuf>,
    /// 1 if it was not given.
    pub repeat: u32,
    /// Whether it was.
    pub repeats: bool,
}

impl Words {
    /// # Errors
    /// If a word is unknown, comes twice, or lacks its value.
    pub fn parse(words: &[String]) -> Result<Words> {
        let mut words = words.iter().map(String::as_str).peekable();
        let program = words.next_if(|word| !is_keyword(word)).map(str::to_owned);
        let (mut data_in, mut data_out, mut repeat) = (None, None, None);
        while let Some(word) = words.next() {
            if word.starts_with("ctx_") {
                bail!("`{word}` is not supported: the context follows from the frame");
            }
            if word == "data_size_out" {
                bail!("`{word}` is not needed: `data_out` gets the whole frame");
            }
            if !is_keyword(word) {
                bail!("`{word}` is no keyword: data_in FILE, data_out FILE, repeat N");
            }
            let value = words.next();
            let value = value.with_context(|| format!("`{word}` needs a value after it"))?;
            let place = match word {
                "data_in" => &mut data_in,
                "data_out" => &mut data_out,
                _ => &mut repeat,
            };
            if place.replace(value).is_some() {
                bail!("`{word}` was given twice");
            }
        }
        let repeats = repeat.is_some();
        let repeat = repeat.map_or(Ok(1), str::parse);
        let repeat = repeat.context("`repeat` takes a number from 1 to 4294967295")?;
        if repeat == 0 {
            bail!("`repeat` takes a number from 1 on");
        }
        Ok(Words {
            program,
            data_in: data_in.map(PathBuf::from),
            data_out: data_out.map(PathBuf::from),
            repeat,
            repeats,
        })
    }
}

fn is_keyword(word: &str) -> bool {
    const KEYWORDS: [&str; 7] = [
        "data_in",
        "data_out",
        "repeat",
        "data_size_out",
        "ctx_in",
        "ctx_out",
        "ctx_size_out",
    ];
    KEYWORDS.contains(&word)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn parse(line: &str) -> Result<Words> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Words::parse(&words)
    }

    #[test]
    fn the_program_comes_first_and_keywords_in_any_order() {
        let words = parse("main repeat 7 data_out - data_in frame").unwrap();
        assert_eq!(words.program.as_deref(), Some("main"));
        assert_eq!(words.data_in, Some(PathBuf::from("frame")));
        assert_eq!(words.data_out, Some(PathBuf::from("-")));
        assert_eq!(words.repeat, 7);
        let words = parse("data_in repeat").unwrap();
        assert_eq!((words.program, words.repeat), (None, 1));
        assert_eq!(words.data_in, Some(PathBuf::from("repeat")));
    }

    #[test]
    fn wrong_words_are_named() {
        for (line, said) in [
            ("main other data_in x", "`other` is no keyword"),
            ("data_in", "`data_in` needs a value"),
            ("data_in a data_in b", "`data_in` was given twice"),
            ("data_in a repeat many", "`repeat` takes a number"),
            ("data_in a repeat 0", "`repeat` takes a number from 1"),
            ("data_in a ctx_in b", "`ctx_in` is not supported"),
            ("data_in a data_size_out 9", "`data_size_out` is not needed"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
