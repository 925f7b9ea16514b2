//! Real HTTP over real TCP from the client to the VIPs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use squalus_testkit::{Lab, http};

use super::HTTP_PORT;
use super::report::HttpReport;

/// Sends `requests` requests to each VIP and watches what reaches the balancer meanwhile.
pub fn observe(lab: &Lab, requests: u32) -> Result<Vec<HttpReport>> {
    let vips: [(IpAddr, IpAddr); 2] = [
        (Lab::VIP4.into(), lab.client.ipv4.into()),
        (Lab::VIP6.into(), lab.client.ipv6.into()),
    ];
    vips.into_iter()
        .map(|(vip, client)| observe_vip(lab, (vip, HTTP_PORT).into(), client, requests))
        .collect()
}

fn observe_vip(lab: &Lab, vip: SocketAddr, client: IpAddr, requests: u32) -> Result<HttpReport> {
    let before = lab.balancer.counters()?;
    let answers: Vec<_> = lab
        .client
        .namespace
        .run(|| (0..requests).map(|_| http::get(vip)).collect())?;
    let after = lab.balancer.counters()?;
    let mut report = HttpReport {
        vip: vip.to_string(),
        requests,
        answered: 0,
        by_real: BTreeMap::new(),
        client_address_preserved: true,
        reply_bytes: 0,
        balancer_rx_bytes: after.rx_bytes - before.rx_bytes,
    };
    for answer in answers {
        match answer {
            Ok(answer) => {
                report.answered += 1;
                report.reply_bytes += answer.body_bytes as u64;
                let seen: Option<SocketAddr> = answer.client_seen.parse().ok();
                report.client_address_preserved &= seen.is_some_and(|seen| seen.ip() == client);
                *report.by_real.entry(answer.served_by).or_default() += 1;
            }
            Err(error) => super::progress(&error.to_string()),
        }
    }
    Ok(report)
}
