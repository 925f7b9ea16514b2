//! What the demo found, as data and as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

/// Everything the demo found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub version: u32,
    /// Whether everything was as it must be.
    pub passed: bool,
    /// What was not, in words.
    pub problems: Vec<String>,
    /// SHA-256 of the balancer object that both backends loaded.
    pub object_sha256: String,
    /// Why a backend was left out, if one was.
    pub left_out: Vec<String>,
    /// One entry for each backend that ran.
    pub backends: Vec<BackendReport>,
}

/// What one backend did.
#[derive(Debug, Serialize)]
pub struct BackendReport {
    /// `kernel` or `user`.
    pub backend: String,
    /// How packets reached it, e.g. `native XDP` or `AF_XDP copy`.
    pub mode: String,
    /// How many session tables it has: one for each CPU that may run the program. A session is new to each
    /// of them, so when the kernel lets another CPU handle some packets, it counts that session again.
    pub session_tables: u32,
    /// Real TCP and HTTP, by address family.
    pub http: Vec<HttpReport>,
    /// Sessions by range of source ports.
    pub sweep: Vec<SweepRow>,
}

impl BackendReport {
    fn problems(&self) -> Vec<String> {
        let http = self.http.iter().flat_map(HttpReport::problems);
        let sweep = self
            .sweep
            .iter()
            .flat_map(|row| row.problems(self.session_tables));
        let name = &self.backend;
        http.chain(sweep)
            .map(|problem| format!("{name}: {problem}"))
            .collect()
    }
}

/// HTTP requests from the client to a VIP.
#[derive(Debug, Serialize)]
pub struct HttpReport {
    /// The VIP and port.
    pub vip: String,
    /// Requests sent, each over a connection of its own.
    pub requests: u32,
    /// Complete answers.
    pub answered: u32,
    /// Answers by real.
    pub by_real: BTreeMap<String, u32>,
    /// Whether every real saw the client's own address.
    pub client_address_preserved: bool,
    /// Bytes of all answers.
    pub reply_bytes: u64,
    /// Bytes that the balancer's interface received meanwhile.
    pub balancer_rx_bytes: u64,
}

impl HttpReport {
    /// Whether replies bypassed the balancer: it saw less than the replies alone are long.
    #[must_use]
    pub fn direct_return(&self) -> bool {
        self.reply_bytes > 0 && self.balancer_rx_bytes < self.reply_bytes
    }

    fn problems(&self) -> Vec<String> {
        let vip = &self.vip;
        let mut problems = Vec::new();
        if self.answered != self.requests {
            problems.push(format!(
                "http://{vip}: {} of {} requests answered",
                self.answered, self.requests
            ));
        }
        if !self.client_address_preserved {
            problems.push(format!(
                "http://{vip}: a real saw another address than the client's"
            ));
        }
        if !self.direct_return() {
            problems.push(format!(
                "http://{vip}: replies did not bypass the balancer ({} bytes of replies, {} bytes into the balancer)",
                self.reply_bytes, self.balancer_rx_bytes
            ));
        }
        problems
    }
}

/// Packets of the sessions of one range of source ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SweepRow {
    /// `udp` or `tcp`.
    pub transport: String,
    /// Range of source ports above the first, e.g. `0-1000`.
    pub source_ports: String,
    /// Sessions.
    pub sessions: u32,
    /// Packets sent.
    pub sent: u64,
    /// Packets that the balancer counted.
    pub packets: u64,
    /// Of these, session known.
    pub lru_hits: u64,
    /// Of these, session new.
    pub lru_misses: u64,
}

impl SweepRow {
    fn problems(&self, tables: u32) -> Vec<String> {
        let range = format!("{}, source ports {}", self.transport, self.source_ports);
        let mut problems = Vec::new();
        if self.packets != self.sent {
            problems.push(format!(
                "{range}: {} packets sent, {} counted",
                self.sent, self.packets
            ));
        }
        let sessions = u64::from(self.sessions);
        if !(sessions..=sessions * u64::from(tables)).contains(&self.lru_misses) {
            problems.push(format!(
                "{range}: {sessions} sessions and {tables} session tables, but {} packets of unknown sessions",
                self.lru_misses
            ));
        }
        problems
    }
}

impl Report {
    /// Judges what was found.
    #[must_use]
    pub fn new(
        object_sha256: String,
        left_out: Vec<String>,
        backends: Vec<BackendReport>,
    ) -> Report {
        let problems: Vec<String> = backends.iter().flat_map(BackendReport::problems).collect();
        Report {
            version: 1,
            passed: problems.is_empty() && !backends.is_empty(),
            problems,
            object_sha256,
            left_out,
            backends,
        }
    }

    /// The report as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "One object in every backend: sha256 {}",
            self.object_sha256
        );
        for backend in &self.backends {
            let _ = writeln!(out, "\n{} ({})", backend.backend, backend.mode);
            for http in &backend.http {
                http_text(&mut out, http);
            }
        }
        self.sweep_text(&mut out);
        for reason in &self.left_out {
            let _ = writeln!(out, "\nNot run: {reason}");
        }
        let _ = writeln!(out, "\n{}", if self.passed { "PASSED" } else { "FAILED" });
        for problem in &self.problems {
            let _ = writeln!(out, "  {problem}");
        }
        out
    }

    fn sweep_text(&self, out: &mut String) {
        let Some(first) = self.backends.first() else {
            return;
        };
        let _ = write!(out, "\n{:<5} {:<8} {:>8} {:>8}", "", "source", "", "");
        for backend in &self.backends {
            let _ = write!(out, " | {:<29}", format!("{} backend", backend.backend));
        }
        let _ = write!(
            out,
            "\n{:<5} {:<8} {:>8} {:>8}",
            "proto", "ports", "sessions", "sent"
        );
        for _ in &self.backends {
            let _ = write!(out, " | {:>9} {:>9} {:>9}", "packets", "LRU hits", "misses");
        }
        out.push('\n');
        for (index, row) in first.sweep.iter().enumerate() {
            let _ = write!(
                out,
                "{:<5} {:<8} {:>8} {:>8}",
                row.transport, row.source_ports, row.sessions, row.sent
            );
            for row in self
                .backends
                .iter()
                .filter_map(|backend| backend.sweep.get(index))
            {
                let _ = write!(
                    out,
                    " | {:>9} {:>9} {:>9}",
                    row.packets, row.lru_hits, row.lru_misses
                );
            }
            out.push('\n');
        }
        let again = |row: &SweepRow| row.lru_misses > u64::from(row.sessions);
        if self
            .backends
            .iter()
            .any(|backend| backend.sweep.iter().any(again))
        {
            out.push_str("(More misses than sessions: another CPU, whose table did not know them, handled some packets.)\n");
        }
    }
}

fn http_text(out: &mut String, http: &HttpReport) {
    let share: Vec<String> = http
        .by_real
        .iter()
        .map(|(real, count)| format!("{real} {count}"))
        .collect();
    let _ = writeln!(
        out,
        "  http://{}: {} of {} requests answered ({})",
        http.vip,
        http.answered,
        http.requests,
        share.join(", ")
    );
    let seen = if http.client_address_preserved {
        "the client's own address"
    } else {
        "ANOTHER ADDRESS"
    };
    let _ = writeln!(out, "    the reals saw {seen}");
    let path = if http.direct_return() {
        "replies went directly (DSR)"
    } else {
        "REPLIES WENT THROUGH THE BALANCER"
    };
    let _ = writeln!(
        out,
        "    {path}: {} bytes of replies, {} bytes into the balancer",
        http.reply_bytes, http.balancer_rx_bytes
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(packets: u64, misses: u64) -> SweepRow {
        SweepRow {
            transport: "udp".into(),
            source_ports: "0-100".into(),
            sessions: 101,
            sent: 1000,
            packets,
            lru_hits: packets - misses,
            lru_misses: misses,
        }
    }

    fn report(balancer_rx_bytes: u64, rows: Vec<SweepRow>) -> Report {
        let http = HttpReport {
            vip: "10.0.0.1:80".into(),
            requests: 2,
            answered: 2,
            by_real: BTreeMap::from([("real1".into(), 2)]),
            client_address_preserved: true,
            reply_bytes: 100_000,
            balancer_rx_bytes,
        };
        let backend = BackendReport {
            backend: "kernel".into(),
            mode: "native XDP".into(),
            session_tables: 1,
            http: vec![http],
            sweep: rows,
        };
        Report::new("00".into(), vec![], vec![backend])
    }

    #[test]
    fn it_passes_only_if_every_packet_and_session_is_accounted_for() {
        assert!(report(5_000, vec![row(1000, 101)]).passed);
        assert!(!report(5_000, vec![row(999, 101)]).passed);
        assert!(!report(5_000, vec![row(1000, 100)]).passed);
        assert!(!Report::new("00".into(), vec![], vec![]).passed);
    }

    #[test]
    fn a_session_may_be_new_to_each_table_once() {
        assert!(row(1000, 202).problems(2).is_empty());
        assert!(!row(1000, 203).problems(2).is_empty());
        assert!(!row(1000, 202).problems(1).is_empty());
        assert!(!row(1000, 100).problems(2).is_empty());
        let text = report(5_000, vec![row(1000, 102)]).text();
        assert!(text.contains("another CPU"), "{text}");
    }

    #[test]
    fn a_failure_says_what_failed() {
        let text = report(200_000, vec![row(999, 101)]).text();
        assert!(text.contains("FAILED"), "{text}");
        for problem in [
            "kernel: http://10.0.0.1:80: replies did not bypass the balancer",
            "kernel: udp, source ports 0-100: 1000 packets sent, 999 counted",
        ] {
            assert!(text.contains(problem), "{text}");
        }
    }
}
