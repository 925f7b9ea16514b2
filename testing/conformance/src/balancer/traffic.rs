//! Frames of every kind that a balancer meets.

use super::{GUE_PORTS, Generator, HOT_VIP, NO_REAL, SERVERS, v6};
use crate::frames::{self, Address, ETHERNET, Flow, MAX_FRAME, proto, tcp};

impl Generator {
    /// A client of the VIP's family, one of few ports, so that flows come back.
    pub(super) fn vip_flow(&mut self) -> (Flow, u8) {
        let hot = self.rng.percent(10);
        let vip = match hot {
            true => &self.vips[HOT_VIP],
            false => &self.vips[self.rng.below(self.vips.len())],
        };
        let family = |client: &&Address| client.len() == vip.address.len();
        let clients: Vec<&Address> = self.clients.iter().filter(family).collect();
        // One client sends much of the traffic: its flows come back.
        let src = match hot || self.rng.percent(40) {
            true => clients[0].clone(),
            false => (*self.rng.pick(&clients)).clone(),
        };
        let sport = match hot || self.rng.percent(80) {
            true => *self.rng.pick(&[31337, 1024, 65535, 7]),
            false => self.rng.word() as u16,
        };
        let dport = match vip.port {
            0 => *self.rng.pick(&[80, 443, 53, 1]),
            port if self.rng.percent(95) => port,
            _ => self.rng.word() as u16,
        };
        let flow = Flow {
            src,
            dst: vip.address.clone(),
            sport,
            dport,
        };
        (flow, vip.protocol)
    }

    /// A frame of some kind, damaged one time in four.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = match self.rng.below(100) {
            0..60 => self.vip_frame(),
            60..66 => self.echo(),
            66..80 => self.icmp_error(),
            80..92 => self.encapsulated(),
            92..95 => self.other_protocol(),
            95..98 => self.no_ip(),
            _ => {
                let len = self.rng.between(ETHERNET, 200);
                self.rng.bytes(len)
            }
        };
        if self.rng.percent(25) {
            frames::damage(&mut self.rng, &mut frame);
        }
        frame.truncate(MAX_FRAME);
        frame
    }

    fn vip_frame(&mut self) -> Vec<u8> {
        let (flow, protocol) = self.vip_flow();
        let segment = self.segment(&flow, protocol);
        frames::ethernet(&self.packet(&flow, protocol, &segment))
    }

    fn packet(&mut self, flow: &Flow, protocol: u8, payload: &[u8]) -> Vec<u8> {
        frames::ip(&mut self.rng, &flow.src, &flow.dst, protocol, payload)
    }

    fn segment(&mut self, flow: &Flow, protocol: u8) -> Vec<u8> {
        if protocol == proto::TCP {
            let flags = *self.rng.pick(&[
                tcp::SYN,
                tcp::ACK,
                tcp::ACK,
                tcp::ACK | tcp::PSH,
                tcp::ACK | tcp::FIN,
                tcp::RST,
                tcp::RST | tcp::ACK,
                tcp::SYN | tcp::ACK,
                tcp::SYN | tcp::RST,
                0,
                0xff,
            ]);
            let options = self.tcp_options();
            let payload = self.payload();
            return frames::tcp_segment(&mut self.rng, flow, flags, &options, &payload);
        }
        let payload = match self.rng.below(10) {
            0..5 => self.quic(),
            5..7 => self.stable_routing(),
            _ => self.payload(),
        };
        frames::udp_datagram(&mut self.rng, flow, &payload)
    }

    /// Mostly short; sometimes up to a full frame, and beyond what the balancer forwards.
    fn payload(&mut self) -> Vec<u8> {
        let len = match self.rng.below(20) {
            0..12 => self.rng.between(0, 64),
            12..17 => self.rng.between(64, 1400),
            17 | 18 => self.rng.between(1400, 1480),
            _ => self.rng.between(1480, 3400),
        };
        self.rng.bytes(len)
    }

    /// Options among which katran's server id (kind 0xb7, six bytes) may be, well-formed or not.
    fn tcp_options(&mut self) -> Vec<u8> {
        let mut options = Vec::new();
        if self.rng.percent(50) {
            return options;
        }
        for _ in 0..self.rng.between(0, 6) {
            match self.rng.below(6) {
                0 => options.push(1),
                1 => options.extend([2, 4, 5, 0xb4]),
                2 => options.extend([8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
                3 => {
                    let id = self.server_id();
                    options.extend([0xb7, 6]);
                    options.extend(id.to_le_bytes());
                }
                4 => options.extend([self.rng.byte(), self.rng.byte()]),
                _ => options.push(0),
            }
        }
        options
    }

    fn server_id(&mut self) -> u32 {
        match self.rng.below(10) {
            0 => 0,
            1 => self.rng.word() as u32,
            2 => SERVERS + 1,
            3..6 => self.rng.between(1, 2) as u32,
            6 => NO_REAL,
            _ => self.rng.between(1, SERVERS as usize) as u32,
        }
    }

    fn quic(&mut self) -> Vec<u8> {
        let version = self.rng.below(5) as u8;
        let server = self.server_id();
        let len = *self.rng.pick(&[8, 8, 8, 20, 7, 4, 0, 9, 255]);
        let id = frames::connection_id(&mut self.rng, version, server, len);
        if self.rng.percent(40) {
            let kind = *self.rng.pick(&[0x00, 0x10, 0x20, 0x30]);
            frames::quic_long(&mut self.rng, kind, &id)
        } else {
            frames::quic_short(&mut self.rng, &id)
        }
    }

    /// The first byte says stable routing, the next three the server.
    fn stable_routing(&mut self) -> Vec<u8> {
        const HEADER: u8 = 0x52;
        let [_, high, middle, low] = self.server_id().to_be_bytes();
        let first = if self.rng.percent(90) {
            HEADER
        } else {
            self.rng.byte()
        };
        let more = self.rng.between(0, 20);
        let mut payload = vec![first, high, middle, low];
        payload.extend(self.rng.bytes(more));
        payload
    }

    fn any_flow(&mut self) -> Flow {
        let (mut flow, _) = self.vip_flow();
        if self.rng.percent(50) {
            let len = flow.dst.len();
            flow.dst = self.rng.bytes(len);
        }
        flow
    }

    fn icmp_packet(
        &mut self,
        flow: &Flow,
        kinds: (u8, u8),
        code: u8,
        rest: [u8; 4],
        body: &[u8],
    ) -> Vec<u8> {
        let (kind, protocol) = match flow.src.len() {
            4 => (kinds.0, proto::ICMP),
            _ => (kinds.1, proto::ICMPV6),
        };
        let message = frames::icmp(kind, code, rest, body);
        frames::ethernet(&self.packet(flow, protocol, &message))
    }

    fn echo(&mut self) -> Vec<u8> {
        let flow = self.any_flow();
        let body = self.payload();
        let kinds = *self
            .rng
            .pick(&[(8, 128), (8, 128), (8, 128), (0, 129), (13, 135)]);
        let rest = (self.rng.word() as u32).to_be_bytes();
        let code = if self.rng.percent(90) {
            0
        } else {
            self.rng.byte()
        };
        self.icmp_packet(&flow, kinds, code, rest, &body)
    }

    /// A router answers to something that the VIP sent: the embedded packet goes from the VIP to a client.
    fn icmp_error(&mut self) -> Vec<u8> {
        let (flow, protocol) = self.vip_flow();
        let inner = flow.reversed();
        let segment = self.segment(&inner, protocol);
        let mut embedded = self.packet(&inner, protocol, &segment);
        if self.rng.percent(70) {
            let header = if inner.src.len() == 4 { 20 } else { 40 };
            let keep = header + self.rng.between(0, 24);
            embedded.truncate(keep);
        }
        if self.rng.percent(10) {
            embedded[0] = self.rng.byte();
        }
        let router = Flow {
            src: self.any_flow().dst,
            ..flow.clone()
        };
        let outer = if router.src.len() == flow.dst.len() {
            router
        } else {
            flow
        };
        let kinds = *self.rng.pick(&[(3, 2), (3, 1), (3, 1), (11, 3), (5, 137)]);
        let code = *self.rng.pick(&[0, 1, 3, 4, 4, 4, 13]);
        let mtu = *self.rng.pick(&[0u16, 576, 1279, 1280, 1400, 1500, 65535]);
        let [high, low] = mtu.to_be_bytes();
        self.icmp_packet(&outer, kinds, code, [0, 0, high, low], &embedded)
    }

    /// A packet to a VIP inside IP in IP or GUE, to this host or another.
    fn encapsulated(&mut self) -> Vec<u8> {
        let (flow, protocol) = self.vip_flow();
        let segment = self.segment(&flow, protocol);
        let inner = self.packet(&flow, protocol, &segment);
        let outer_v4 = self.rng.percent(50);
        let dst = match (outer_v4, self.rng.below(4)) {
            (true, 0) => vec![10, 0, 13, 38],
            (true, 1) => vec![10, 9, 9, 9],
            (true, _) => vec![10, 0, 13, 37],
            (false, 0) => v6(0x9999),
            (false, _) => v6(0x1337),
        };
        let outer = Flow {
            src: if outer_v4 {
                vec![172, 16, 1, 2]
            } else {
                v6(0x4242)
            },
            dst,
            sport: self.rng.word() as u16,
            dport: *self.rng.pick(&GUE_PORTS),
        };
        let (protocol, payload) = if self.rng.percent(50) {
            let inner_v4 = flow.src.len() == 4;
            (if inner_v4 { proto::IPIP } else { proto::IPV6 }, inner)
        } else {
            (
                proto::UDP,
                frames::udp_datagram(&mut self.rng, &outer, &inner),
            )
        };
        frames::ethernet(&self.packet(&outer, protocol, &payload))
    }

    fn other_protocol(&mut self) -> Vec<u8> {
        let flow = self.any_flow();
        let protocol = self.rng.byte();
        let payload = self.payload();
        frames::ethernet(&self.packet(&flow, protocol, &payload))
    }

    /// ARP, VLAN tags and such.
    fn no_ip(&mut self) -> Vec<u8> {
        let mut frame = self.vip_frame();
        let types: [u16; 5] = [0x0806, 0x8100, 0x88a8, 0x88cc, self.rng.word() as u16];
        let ethertype = *self.rng.pick(&types);
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame
    }
}
