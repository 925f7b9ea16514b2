//! Frames for the programs, the same in every run.

/// Kinds of traffic. Each frame begins with an Ethernet header.
#[derive(Clone, Copy, Debug)]
pub enum Traffic {
    /// TCP over IPv4, sixteen flows.
    Tcp4,
    /// TCP over IPv6, sixteen flows.
    Tcp6,
    /// IPv4 behind one or two VLAN tags.
    Vlan,
    /// IPv4 headers of 60 bytes.
    Ipv4Options,
    /// IPv6 with up to four extension headers.
    Ipv6Extensions,
    /// TCP SYN with the usual options.
    TcpOptions,
    /// DNS questions.
    Dns,
    /// QUIC, long and short headers.
    Quic,
    /// ICMP errors about TCP packets.
    Icmp,
    /// IPv4 and TCP in GUE.
    Gue,
    /// HTTP requests.
    Http,
    /// ARP requests.
    Arp,
    /// Words, numbers and quotes: this many bytes after the Ethernet header.
    Text(usize),
    /// Text of characters of one to four bytes: this many bytes after the Ethernet header.
    Utf8(usize),
    /// Anything: this many bytes after the Ethernet header.
    Random(usize),
}

/// Frames of each kind.
pub const FRAMES: u64 = 16;

const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

impl Traffic {
    /// The frames of this kind.
    #[must_use]
    pub fn frames(self) -> Vec<Vec<u8>> {
        (0..FRAMES).map(|n| self.frame(&mut Numbers(n))).collect()
    }

    fn frame(self, numbers: &mut Numbers) -> Vec<u8> {
        let (kind, body) = match self {
            Traffic::Tcp4 => (IPV4, ipv4(TCP, &[], &tcp(&[], numbers), numbers)),
            Traffic::Tcp6 => (IPV6, ipv6(TCP, &tcp(&[], numbers), numbers)),
            Traffic::Vlan => vlan(numbers),
            Traffic::Ipv4Options => (IPV4, ipv4(TCP, &IPV4_OPTIONS, &tcp(&[], numbers), numbers)),
            Traffic::Ipv6Extensions => (IPV6, extensions(numbers)),
            Traffic::TcpOptions => {
                let segment = tcp(&syn_options(numbers), numbers);
                (IPV4, ipv4(TCP, &[], &segment, numbers))
            }
            Traffic::Dns => (IPV4, datagram(53, &dns(numbers), numbers)),
            Traffic::Quic => (IPV4, datagram(443, &quic(numbers), numbers)),
            Traffic::Icmp => (IPV4, icmp(numbers)),
            Traffic::Gue => {
                let inner = ipv4(TCP, &[], &tcp(&[], numbers), numbers);
                let packet = [&[0, 4, 0, 0], &inner[..]].concat();
                (IPV4, datagram(6080, &packet, numbers))
            }
            Traffic::Http => {
                let segment = [tcp(&[], numbers), http(numbers)].concat();
                (IPV4, ipv4(TCP, &[], &segment, numbers))
            }
            Traffic::Arp => (0x0806, arp(numbers)),
            Traffic::Text(len) => (IPV4, cycle(TEXT.as_bytes(), numbers.below(40), len)),
            Traffic::Utf8(len) => (IPV4, utf8(numbers, len)),
            Traffic::Random(len) => (IPV4, numbers.bytes(len)),
        };
        let header = [
            &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1],
            &kind.to_be_bytes()[..],
        ]
        .concat();
        let mut frame = [header, body].concat();
        frame.resize(frame.len().max(64), 0);
        frame
    }
}

const TEXT: &str =
    r#"alpha 12 "two words" b3ta 44 gamma "an \" inside" 7 delta, epsilon: 1000000 zeta "x" 8 eta"#;

/// Router alert, a timestamp of nine places, no operation twice, the end.
const IPV4_OPTIONS: [u8; 40] = {
    let mut options = [0; 40];
    options[0] = 148;
    options[1] = 4;
    options[4] = 1;
    options[5] = 1;
    options[6] = 68;
    options[7] = 12;
    options[18] = 1;
    options[19] = 7;
    options[20] = 11;
    options[31] = 1;
    options[32] = 130;
    options[33] = 4;
    options[36] = 1;
    options
};

fn ipv4(proto: u8, options: &[u8], body: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let len = (20 + options.len() + body.len()) as u16;
    let mut packet = vec![0x45 + (options.len() / 4) as u8, 0];
    packet.extend(len.to_be_bytes());
    packet.extend(numbers.bytes(2));
    packet.extend([0, 0, 64, proto]);
    packet.extend(numbers.bytes(2));
    packet.extend([
        10,
        1,
        numbers.byte(),
        numbers.byte(),
        10,
        200,
        1,
        numbers.byte(),
    ]);
    [&packet, options, body].concat()
}

fn ipv6(next: u8, body: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((body.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(numbers.bytes(32));
    [&packet, body].concat()
}

fn tcp(options: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut segment = numbers.bytes(20);
    segment[12] = ((5 + options.len() / 4) << 4) as u8;
    segment[13] = 0x10;
    [&segment, options].concat()
}

fn datagram(port: u16, payload: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut header = numbers.bytes(2);
    header.extend(port.to_be_bytes());
    header.extend((8 + payload.len() as u16).to_be_bytes());
    header.extend([0, 0]);
    ipv4(UDP, &[], &[&header, payload].concat(), numbers)
}

fn vlan(numbers: &mut Numbers) -> (u16, Vec<u8>) {
    let (tag, inner) = (numbers.bytes(2), numbers.bytes(2));
    let (kind, packet) = if numbers.byte().is_multiple_of(3) {
        (IPV6, ipv6(TCP, &tcp(&[], numbers), numbers))
    } else {
        (IPV4, ipv4(TCP, &[], &tcp(&[], numbers), numbers))
    };
    let kind = kind.to_be_bytes();
    if numbers.byte().is_multiple_of(2) {
        (0x8100, [&tag, &kind[..], &packet].concat())
    } else {
        let middle = 0x8100u16.to_be_bytes();
        (0x88a8, [&tag, &middle[..], &inner, &kind, &packet].concat())
    }
}

/// Hop-by-hop, routing and destination options, perhaps a fragment header, then TCP.
fn extensions(numbers: &mut Numbers) -> Vec<u8> {
    let kinds: &[u8] = if numbers.byte().is_multiple_of(2) {
        &[0, 43, 60]
    } else {
        &[0, 44]
    };
    let mut body = Vec::new();
    for at in 0..kinds.len() {
        let next = *kinds.get(at + 1).unwrap_or(&TCP);
        let more = if kinds[at] == 43 { 1 } else { 0 };
        body.extend([next, more]);
        body.extend(numbers.bytes(6 + 8 * usize::from(more)));
    }
    body.extend(tcp(&[], numbers));
    ipv6(kinds[0], &body, numbers)
}

fn syn_options(numbers: &mut Numbers) -> Vec<u8> {
    let mut options = vec![2, 4, 5, 0xb4, 4, 2, 8, 10];
    options.extend(numbers.bytes(8));
    options.extend([1, 3, 3, 7]);
    options
}

fn dns(numbers: &mut Numbers) -> Vec<u8> {
    let mut question = numbers.bytes(2);
    question.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in ["Www", "service-directory", "Example", "org"] {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend([
        0,
        0,
        if numbers.byte().is_multiple_of(2) {
            1
        } else {
            28
        },
        0,
        1,
    ]);
    question
}

fn quic(numbers: &mut Numbers) -> Vec<u8> {
    let mut packet = numbers.bytes(48);
    if numbers.byte().is_multiple_of(2) {
        packet[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 16]);
    } else {
        packet[0] = 0x40;
    }
    packet
}

fn icmp(numbers: &mut Numbers) -> Vec<u8> {
    let about = ipv4(TCP, &[], &tcp(&[], numbers), numbers);
    let header = [3, 4, 0, 0, 0, 0, 5, 0xdc];
    ipv4(1, &[], &[&header, &about[..]].concat(), numbers)
}

fn http(numbers: &mut Numbers) -> Vec<u8> {
    let method = ["GET", "POST", "HEAD"][numbers.below(3)];
    let id = numbers.byte();
    format!(
        "{method} /static/assets/{id:03}/index.html?lang=en HTTP/1.1\r\nHost: example.org\r\n\r\n"
    )
    .into_bytes()
}

fn arp(numbers: &mut Numbers) -> Vec<u8> {
    let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
    request.extend([10, 0, 0, 100, 0, 0, 0, 0, 0, 0]);
    request.extend([10, 0, 0, numbers.byte() % 8]);
    request
}

fn utf8(numbers: &mut Numbers, len: usize) -> Vec<u8> {
    let mut text = String::new();
    while text.len() < len {
        let char = ['a', 'Z', '7', ' ', 'e', 'ß', 'Ж', '漢', '€', '𝄞'][numbers.below(10)];
        if text.len() + char.len_utf8() <= len {
            text.push(char);
        }
    }
    text.into_bytes()
}

fn cycle(bytes: &[u8], from: usize, len: usize) -> Vec<u8> {
    bytes.iter().copied().cycle().skip(from).take(len).collect()
}

/// Numbers that look random and follow from the first one (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}
