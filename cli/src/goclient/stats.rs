//! `-s`: counters, each time what was added since the time before. The first time shows all since the
//! program was loaded, as katran's client does.

use std::num::NonZeroU64;

use squalus_proto::katran as proto;

use super::{Failure, Session};

/// Which counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    PerVip,
    Sum,
    Lru,
    Icmp,
}

/// Two counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pair {
    v1: u64,
    v2: u64,
}

impl Pair {
    /// What was added since; nothing, if counting began anew.
    fn since(self, old: Pair) -> Pair {
        let (v1, v2) = (
            self.v1.saturating_sub(old.v1),
            self.v2.saturating_sub(old.v2),
        );
        Pair { v1, v2 }
    }
}

impl From<proto::Stats> for Pair {
    fn from(stats: proto::Stats) -> Self {
        Pair {
            v1: stats.v1,
            v2: stats.v2,
        }
    }
}

/// The counters of the session tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lru {
    total: Pair,
    miss: Pair,
    fallback: Pair,
}

impl Session<'_, '_> {
    pub(super) async fn stats(
        &mut self,
        what: What,
        count: Option<NonZeroU64>,
    ) -> Result<(), Failure> {
        let vips = match what {
            What::PerVip | What::Sum => self.vips().await?,
            What::Lru | What::Icmp => Vec::new(),
        };
        let mut per_vip = vec![Pair::default(); vips.len()];
        let (mut sum, mut lru, mut icmp) = (Pair::default(), Lru::default(), Pair::default());
        let mut shown = 0;
        loop {
            match what {
                What::PerVip => self.show_vips(&vips, &mut per_vip).await?,
                What::Sum => self.show_sum(&vips, &mut sum).await?,
                What::Lru => self.show_lru(&mut lru).await?,
                What::Icmp => self.show_icmp(&mut icmp).await?,
            }
            shown += 1;
            if count.is_some_and(|count| shown >= count.get()) {
                return Ok(());
            }
            self.out.flush()?;
            tokio::time::sleep(self.interval).await;
        }
    }

    async fn show_vips(&mut self, vips: &[proto::Vip], old: &mut [Pair]) -> Result<(), Failure> {
        for (vip, old) in vips.iter().zip(old) {
            let new = Pair::from(
                self.client
                    .get_stats_for_vip(vip.clone())
                    .await?
                    .into_inner(),
            );
            let Pair {
                v1: packets,
                v2: bytes,
            } = new.since(*old);
            let key = format!("{}:{}:{}", vip.address, vip.port, vip.protocol);
            writeln!(
                self.out,
                "vip: {key:>16} : {packets:>8} pkts/sec {bytes:>8} bytes/sec"
            )?;
            *old = new;
        }
        Ok(())
    }

    async fn show_sum(&mut self, vips: &[proto::Vip], old: &mut Pair) -> Result<(), Failure> {
        let mut new = Pair::default();
        for vip in vips {
            let stats = self
                .client
                .get_stats_for_vip(vip.clone())
                .await?
                .into_inner();
            new.v1 = new.v1.wrapping_add(stats.v1);
            new.v2 = new.v2.wrapping_add(stats.v2);
        }
        let Pair {
            v1: packets,
            v2: bytes,
        } = new.since(*old);
        writeln!(self.out, "summary: {packets} pkts/sec {bytes} bytes/sec")?;
        *old = new;
        Ok(())
    }

    async fn show_lru(&mut self, old: &mut Lru) -> Result<(), Failure> {
        let empty = proto::Empty {};
        let new = Lru {
            total: self.client.get_lru_stats(empty).await?.into_inner().into(),
            miss: self
                .client
                .get_lru_miss_stats(empty)
                .await?
                .into_inner()
                .into(),
            fallback: self
                .client
                .get_lru_fallback_stats(empty)
                .await?
                .into_inner()
                .into(),
        };
        let line = lru_line(&Lru {
            total: new.total.since(old.total),
            miss: new.miss.since(old.miss),
            fallback: new.fallback.since(old.fallback),
        });
        writeln!(self.out, "{line}")?;
        *old = new;
        Ok(())
    }

    async fn show_icmp(&mut self, old: &mut Pair) -> Result<(), Failure> {
        let stats = self
            .client
            .get_icmp_too_big_stats(proto::Empty {})
            .await?
            .into_inner();
        let new = Pair::from(stats);
        let Pair { v1: v4, v2: v6 } = new.since(*old);
        writeln!(
            self.out,
            "ICMP \"packet too big\": v4 {v4} pkts/sec v6: {v6} pkts/sec"
        )?;
        *old = new;
        Ok(())
    }
}

/// katran's line: hits and misses in percent of all packets, but the shares of misses as fractions of all
/// packets, of which UDP has what the others leave.
fn lru_line(added: &Lru) -> String {
    let packets = added.total.v1;
    let share = |part: u64| {
        if packets == 0 {
            0.0
        } else {
            part as f64 / packets as f64
        }
    };
    let miss = share(added.total.v2);
    let (syn, non_syn) = (share(added.miss.v1), share(added.miss.v2));
    let (hit, udp) = match packets {
        0 => (0.0, 0.0),
        _ => (1.0 - miss, 1.0 - (syn + non_syn)),
    };
    format!(
        "summary: {packets} pkts/sec. lru hit: {:.2}% lru miss: {:.2}% \
         (tcp syn: {syn:.2}% tcp non-syn: {non_syn:.2}% udp: {udp:.2}%) \
         fallback lru hit: {} pkts/sec",
        hit * 100.0,
        miss * 100.0,
        added.fallback.v1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(packets: u64, miss: u64, syn: u64, non_syn: u64, fallback: u64) -> String {
        let pair = |v1, v2| Pair { v1, v2 };
        lru_line(&Lru {
            total: pair(packets, miss),
            miss: pair(syn, non_syn),
            fallback: pair(fallback, 0),
        })
    }

    #[test]
    fn shares() {
        assert_eq!(
            line(0, 0, 0, 0, 0),
            "summary: 0 pkts/sec. lru hit: 0.00% lru miss: 0.00% \
             (tcp syn: 0.00% tcp non-syn: 0.00% udp: 0.00%) fallback lru hit: 0 pkts/sec"
        );
        assert_eq!(
            line(9, 1, 1, 0, 0),
            "summary: 9 pkts/sec. lru hit: 88.89% lru miss: 11.11% \
             (tcp syn: 0.11% tcp non-syn: 0.00% udp: 0.89%) fallback lru hit: 0 pkts/sec"
        );
        assert_eq!(
            line(1000, 250, 150, 100, 7),
            "summary: 1000 pkts/sec. lru hit: 75.00% lru miss: 25.00% \
             (tcp syn: 0.15% tcp non-syn: 0.10% udp: 0.75%) fallback lru hit: 7 pkts/sec"
        );
    }

    #[test]
    fn counting_that_began_anew_adds_nothing() {
        let pair = |v1, v2| Pair { v1, v2 };
        assert_eq!(pair(5, 9).since(pair(7, 4)), pair(0, 5));
    }
}
