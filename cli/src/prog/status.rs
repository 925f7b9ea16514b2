//! `squalus prog status`: what runs on interfaces.

use std::time::UNIX_EPOCH;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use squalus_kernel::{Holder, ProgramInfo, Status, statistics_enabled};

use super::place::{Place, word};
use crate::clock::utc;

/// Options of `squalus prog status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The interface; all if not given.
    #[arg(value_name = "IFACE")]
    interface: Option<String>,
    #[command(flatten)]
    place: Place,
    /// Print JSON.
    #[arg(short, long)]
    json: bool,
}

/// Prints a row for each interface.
///
/// # Errors
/// If there is no such interface, or the kernel cannot be asked.
pub fn run(args: &StatusArgs) -> Result<bool> {
    let status = args.place.attachments().status(args.interface.as_deref())?;
    if args.json {
        let rows: Vec<Row<'_>> = status.iter().map(Row::of).collect();
        super::print_json(&rows)?;
    } else {
        super::print(&table(&status, statistics_enabled()))?;
    }
    Ok(true)
}

/// An interface; bpftool's names where it has them.
#[derive(Serialize)]
struct Row<'a> {
    ifname: &'a str,
    ifindex: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<Program<'a>>,
}

#[derive(Serialize)]
struct Program<'a> {
    mode: &'static str,
    id: u32,
    name: &'a str,
    /// `squalus`, `link`, `interface` or `unknown`.
    holder: &'static str,
    /// Whether `squalus prog attach` attached it.
    ours: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_id: Option<u32>,
    #[serde(flatten)]
    details: Option<Details>,
}

/// What not everybody may know.
#[derive(Serialize)]
struct Details {
    tag: String,
    /// Seconds since 1970.
    loaded_at: u64,
    uid: u32,
    map_ids: Vec<u32>,
    run_cnt: u64,
    run_time_ns: u128,
}

impl<'a> Row<'a> {
    fn of(status: &'a Status) -> Row<'a> {
        let program = status.program.as_ref().map(|running| Program {
            mode: word(running.attached.mode),
            id: running.attached.id,
            name: &running.attached.name,
            holder: match running.holder {
                Holder::Ours => "squalus",
                Holder::Link(_) => "link",
                Holder::Interface => "interface",
                Holder::Unknown => "unknown",
            },
            ours: running.holder == Holder::Ours,
            link_id: match running.holder {
                Holder::Link(id) => Some(id),
                _ => None,
            },
            details: running.info.as_ref().map(Details::of),
        });
        Row {
            ifname: &status.interface,
            ifindex: status.ifindex,
            program,
        }
    }
}

impl Details {
    fn of(info: &ProgramInfo) -> Details {
        let since = info.loaded.duration_since(UNIX_EPOCH);
        Details {
            tag: hex::encode(info.tag),
            loaded_at: since.map_or(0, |since| since.as_secs()),
            uid: info.uid,
            map_ids: info.maps.clone(),
            run_cnt: info.runs,
            run_time_ns: info.run_time.as_nanos(),
        }
    }
}

/// Columns for people; with `counted` also how often programs ran.
fn table(status: &[Status], counted: bool) -> String {
    let mut head = vec![
        "INTERFACE",
        "MODE",
        "ID",
        "NAME",
        "TAG",
        "HELD BY",
        "LOADED (UTC)",
    ];
    if counted {
        head.extend(["RUNS", "NS/RUN"]);
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect()];
    rows.extend(status.iter().map(|status| cells(status, counted)));
    align(&rows)
}

fn cells(status: &Status, counted: bool) -> Vec<String> {
    let Some(running) = &status.program else {
        return vec![status.interface.clone(), "-".to_owned()];
    };
    let of_info = |show: fn(&ProgramInfo) -> String| {
        running.info.as_ref().map_or_else(|| "?".to_owned(), show)
    };
    let mut cells = vec![
        status.interface.clone(),
        word(running.attached.mode).to_owned(),
        running.attached.id.to_string(),
        match &*running.attached.name {
            "" => "?".to_owned(),
            name => name.to_owned(),
        },
        of_info(|info| hex::encode(info.tag)),
        running.holder.to_string(),
        of_info(|info| utc(info.loaded)),
    ];
    if counted {
        cells.push(of_info(|info| info.runs.to_string()));
        cells.push(of_info(|info| match info.runs {
            0 => "-".to_owned(),
            runs => format!("{:.1}", info.run_time.as_nanos() as f64 / runs as f64),
        }));
    }
    cells
}

/// Columns as wide as their widest cell, two spaces between.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        out += line.join("  ").trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use squalus_kernel::{AttachedProgram, Mode, RunningProgram};

    use super::*;

    fn status(interface: &str, program: Option<RunningProgram>) -> Status {
        Status {
            interface: interface.to_owned(),
            ifindex: 3,
            program,
        }
    }

    fn running(holder: Holder, runs: u64) -> RunningProgram {
        RunningProgram {
            attached: AttachedProgram {
                id: 7,
                name: "xdp_filter".to_owned(),
                mode: Mode::Generic,
            },
            holder,
            info: Some(ProgramInfo {
                id: 7,
                name: "xdp_filter".to_owned(),
                tag: [0xab; 8],
                loaded: UNIX_EPOCH + Duration::from_secs(951_782_400),
                uid: 0,
                xlated: 8,
                jited: 8,
                runs,
                run_time: Duration::from_nanos(1000),
                maps: vec![4],
            }),
        }
    }

    #[test]
    fn columns_are_aligned_and_runs_shown_if_counted() {
        let rows = [
            status("lo", None),
            status("eth0", Some(running(Holder::Ours, 8))),
        ];
        let expected = "\
INTERFACE  MODE  ID  NAME        TAG               HELD BY  LOADED (UTC)         RUNS  NS/RUN
lo         -
eth0       skb   7   xdp_filter  abababababababab  squalus  2000-02-29 00:00:00  8     125.0
";
        assert_eq!(table(&rows, true), expected);
        assert!(!table(&rows, false).contains("RUNS"));
        let never = [status("eth0", Some(running(Holder::Link(5), 0)))];
        let text = table(&never, true);
        assert!(
            text.contains("link 5") && text.contains("0     -"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_known_is_marked() {
        let program = RunningProgram {
            info: None,
            ..running(Holder::Unknown, 0)
        };
        let text = table(&[status("eth0", Some(program))], true);
        assert!(
            text.contains("xdp_filter  ?    unknown  ?             ?     ?"),
            "{text}"
        );
    }
}
