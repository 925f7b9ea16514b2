//! A cursor over untrusted little-endian bytes.

/// Reads little-endian numbers; `None` past the end.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads `count` records of `size` bytes, allocating only if they are there.
    pub(crate) fn many<T>(
        &mut self,
        count: usize,
        size: usize,
        read: impl Fn(&mut Reader<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut records = Reader::new(self.take(count.checked_mul(size)?)?);
        (0..count).map(|_| read(&mut records)).collect()
    }
}

/// The little-endian word at byte `offset`.
pub(crate) fn word_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Reader::new(bytes.get(offset..)?).u32()
}
