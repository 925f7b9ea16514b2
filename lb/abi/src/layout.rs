//! Conversion between a value and its bytes in a map, without `unsafe`.

/// A value with a fixed layout in memory, as map keys and values have.
///
/// [`to_bytes`](Self::to_bytes) and [`from_bytes`](Self::from_bytes) are what the control plane uses. The BPF programs
/// use the structs themselves, whose `repr(C)` layout is the same bytes; the tests of this crate hold both together.
pub trait Layout: Copy {
    /// Bytes of the value.
    const SIZE: usize;

    /// Writes the value to the first `SIZE` bytes.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than `SIZE`.
    fn write_to(&self, out: &mut [u8]);

    /// Reads a value from the first `SIZE` bytes.
    ///
    /// # Panics
    ///
    /// If `bytes` is shorter than `SIZE`.
    fn read_from(bytes: &[u8]) -> Self;

    /// The value's bytes, or `None` if `N` is not `SIZE`.
    fn to_bytes<const N: usize>(&self) -> Option<[u8; N]> {
        if N != Self::SIZE {
            return None;
        }
        let mut out = [0; N];
        self.write_to(&mut out);
        Some(out)
    }

    /// The value in `bytes`, or `None` if their number is not `SIZE`.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == Self::SIZE).then(|| Self::read_from(bytes))
    }
}

macro_rules! integers {
    ($($int:ty),+) => {$(
        impl Layout for $int {
            const SIZE: usize = size_of::<$int>();

            fn write_to(&self, out: &mut [u8]) {
                out[..Self::SIZE].copy_from_slice(&self.to_ne_bytes());
            }

            fn read_from(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$int>()];
                raw.copy_from_slice(&bytes[..Self::SIZE]);
                Self::from_ne_bytes(raw)
            }
        }
    )+};
}

integers!(u8, u16, u32, u64);

impl<T: Layout + Default, const N: usize> Layout for [T; N] {
    const SIZE: usize = T::SIZE * N;

    fn write_to(&self, out: &mut [u8]) {
        for (item, chunk) in self.iter().zip(out.chunks_exact_mut(T::SIZE)) {
            item.write_to(chunk);
        }
    }

    fn read_from(bytes: &[u8]) -> Self {
        let mut out = [T::default(); N];
        for (item, chunk) in out.iter_mut().zip(bytes.chunks_exact(T::SIZE)) {
            *item = T::read_from(chunk);
        }
        out
    }
}

/// Declares `repr(C)` structs, their [`Layout`], and checks that they have no implicit padding.
macro_rules! layouts {
    ($(
        $(#[$meta:meta])*
        $name:ident[$size:literal] {
            $($(#[$field_meta:meta])* $offset:literal $vis:vis $field:ident: $ty:ty,)+
        }
    )+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_meta])* $vis $field: $ty,)+
        }

        impl $name {
            /// Bytes of the value.
            pub const SIZE: usize = $size;

            /// The value's bytes.
            pub fn to_bytes(&self) -> [u8; $size] {
                let mut out = [0; $size];
                self.write_to(&mut out);
                out
            }
        }

        impl Layout for $name {
            const SIZE: usize = $size;

            fn write_to(&self, out: &mut [u8]) {
                $(self.$field.write_to(&mut out[$offset..]);)+
            }

            fn read_from(bytes: &[u8]) -> Self {
                Self { $($field: <$ty>::read_from(&bytes[$offset..]),)+ }
            }
        }

        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)+
            assert!(0 $(+ size_of::<$ty>())+ == $size);
        };
    )+};
}

pub(crate) use layouts;
