//! Test runs that say at the end what ran and what was left out.
//!
//! A test that lacks what it needs passes with a line that begins with `SKIPPED`. In thousands of lines nobody sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, pipe};

use anyhow::{Context, Result};

use super::{cargo_command, ensure_success};

/// Runs `cargo test` with these arguments, shows what it prints, and then a summary.
pub fn cargo_test(args: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut command = cargo_command(args, environment)?;
    // One pipe for both, so that cargo's lines stay among those of the tests.
    let (reader, writer) = pipe().context("cannot make a pipe")?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("cannot start cargo")?;
    // The command holds the pipe open.
    drop(command);
    let mut tally = Tally::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("cannot read what the tests say")?;
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        tally.read(&line);
    }
    let status = child.wait().context("cannot wait for cargo")?;
    eprint!("\n{tally}");
    ensure_success("cargo test", status)
}

/// What was seen of a test run.
#[derive(Default)]
struct Tally {
    package: String,
    suites: Vec<Suite>,
}

/// One test binary.
struct Suite {
    name: String,
    /// `None` if it ended without a result.
    counts: Option<Counts>,
    /// How many tests said so.
    skipped: BTreeMap<String, u32>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Tally {
    fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(begun) = line.strip_prefix("Running ") {
            self.begin(begun);
        } else if let Some(package) = line.strip_prefix("Doc-tests ") {
            self.suite(format!("{package} documentation"));
        } else if let Some(suite) = self.suites.last_mut() {
            if let Some(result) = line.strip_prefix("test result: ") {
                suite.counts = Some(Counts::parse(result));
            } else if let Some(reason) = line.strip_prefix("SKIPPED") {
                let reason = reason.trim_start_matches([':', ' ']);
                *suite.skipped.entry(reason.to_owned()).or_default() += 1;
            }
        }
    }

    /// `unittests src/lib.rs (target/debug/deps/package-0123)`: a package's own tests come first.
    fn begin(&mut self, begun: &str) {
        let (source, path) = begun.split_once(" (").unwrap_or((begun, ""));
        let binary = path.rsplit('/').next().unwrap_or(path);
        let binary = binary.rsplit_once('-').map_or(binary, |(name, _)| name);
        match source.strip_prefix("unittests ") {
            Some("src/lib.rs") => {
                self.package = binary.to_owned();
                self.suite(binary.to_owned());
            }
            _ => self.suite(format!("{} {binary}", self.package)),
        }
    }

    fn suite(&mut self, name: String) {
        self.suites.push(Suite {
            name,
            counts: None,
            skipped: BTreeMap::new(),
        });
    }
}

impl Counts {
    /// `ok. 3 passed; 0 failed; 1 ignored; ...`
    fn parse(result: &str) -> Counts {
        let mut counts = Counts::default();
        let words: Vec<&str> = result.split([' ', ';']).collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse() else {
                continue;
            };
            match pair[1] {
                "passed" => counts.passed = number,
                "failed" => counts.failed = number,
                "ignored" => counts.ignored = number,
                _ => {}
            }
        }
        counts
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = (Counts::default(), 0);
        for suite in &self.suites {
            let Some(counts) = suite.counts else {
                writeln!(f, "{:<44} ended without a result", suite.name)?;
                continue;
            };
            let skipped: u32 = suite.skipped.values().sum();
            all.0.passed += counts.passed;
            all.0.failed += counts.failed;
            all.0.ignored += counts.ignored;
            all.1 += skipped;
            if counts.passed + counts.failed + counts.ignored > 0 {
                writeln!(f, "{:<44} {}", suite.name, Row(counts, skipped))?;
            }
            for (reason, count) in &suite.skipped {
                writeln!(f, "    SKIPPED {count}: {reason}")?;
            }
        }
        writeln!(f, "{:<44} {}", "all", Row(all.0, all.1))
    }
}

/// Counts, and how many tests of those that passed left out something.
struct Row(Counts, u32);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5} passed", self.0.passed)?;
        for (number, what) in [
            (self.0.failed, "FAILED"),
            (self.0.ignored, "ignored"),
            (self.1, "times something was skipped"),
        ] {
            if number > 0 {
                write!(f, ", {number} {what}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_stands_with_its_suite() {
        let mut tally = Tally::default();
        for line in [
            "     Running unittests src/lib.rs (/t/deps/squalus_maps-0f)",
            "test result: ok. 56 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
            "     Running tests/kernel/main.rs (/t/deps/kernel-0e)",
            "---- one stdout ----",
            "SKIPPED: no bpf(2)",
            "---- two stdout ----",
            "SKIPPED: no bpf(2)",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
            "     Running tests/lru.rs (/t/deps/lru-0d)",
            "   Doc-tests squalus_maps",
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured",
        ] {
            tally.read(line);
        }
        let text = tally.to_string();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        let expected = [
            "squalus_maps 56 passed",
            "squalus_maps kernel 2 passed, 1 FAILED, 2 times something was skipped",
            "SKIPPED 2: no bpf(2)",
            "squalus_maps lru ended without a result",
            "all 58 passed, 1 FAILED, 2 times something was skipped",
        ];
        let expected = expected.map(|line| line.split(' ').collect::<Vec<_>>());
        assert_eq!(lines, expected);
    }
}
