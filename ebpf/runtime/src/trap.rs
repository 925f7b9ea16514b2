//! Why a run was ended: a failed check is a verdict of `XDP_ABORTED` and a reason, never a crash.

use std::fmt;

macro_rules! reasons {
    ($($variant:ident = $id:literal, $name:literal, $text:literal;)*) => {
        /// What check failed. The numbers are what generated code stores in [`crate::Env`]; 0 is "none".
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum TrapReason { $(#[doc = $text] $variant = $id,)* }

        impl TrapReason {
            /// All reasons in numeric order, from number 1 on.
            pub const ALL: &'static [TrapReason] = &[$(TrapReason::$variant,)*];

            /// The reason with this number.
            #[must_use]
            pub const fn from_code(code: u32) -> Option<TrapReason> {
                match code { $($id => Some(TrapReason::$variant),)* _ => None }
            }

            /// A short name, fit for a metric label.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(TrapReason::$variant => $name,)* }
            }

            /// A sentence for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(TrapReason::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    Packet = 1, "packet_bounds", "access outside the packet";
    Stack = 2, "stack_bounds", "access outside the program's stack";
    MapValue = 3, "map_value_bounds", "access outside a map value";
    Context = 4, "context_access", "access to the context that XDP programs may not make";
    NotPointer = 5, "not_a_pointer", "access through a value that is not a pointer to memory";
    StalePacket = 6, "stale_packet_pointer", "access through a packet pointer older than an adjustment of the packet";
    ReadOnly = 7, "read_only", "store into read-only memory";
    Uninitialised = 8, "uninitialised_register", "use of a register that was never written";
    Argument = 9, "helper_argument", "a helper's argument is not what the helper takes";
    HelperMap = 10, "helper_map", "a helper was called on a map of a type it does not serve";
    CallDepth = 11, "call_depth", "more than eight nested subprogram calls";
    Budget = 12, "budget", "the program ran for too many instructions";
    Misaligned = 13, "misaligned_atomic", "atomic operation at an address that is not aligned";
    AtomicPlace = 14, "atomic_place", "atomic operation on memory that does not allow it";
    Return = 15, "return_value", "the program returned something that is not a number";
    Unsupported = 16, "unsupported", "an instruction or helper this engine does not implement";
    NullPointer = 17, "null_pointer", "access through a null pointer";
    TailCall = 18, "tail_call", "a tail call reached a program that does not exist";
    SpinLock = 19, "spin_lock", "a spin lock was taken twice, released without being held, or held over a call";
    Record = 20, "ring_record_bounds", "access outside a record reserved in a ring buffer";
    Field = 21, "special_field", "access to a spin lock or timer in a map value other than by its helpers";
}

impl TrapReason {
    /// One more than the largest number: size of a table by reason.
    pub const COUNT: usize = TrapReason::ALL.len() + 1;
}

impl fmt::Display for TrapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A run that was ended, with what helps to find out why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// What failed.
    pub reason: TrapReason,
    /// Index of the program (it may have been tail-called).
    pub program: usize,
    /// Slot of the instruction.
    pub slot: usize,
    /// The registers before it.
    pub registers: [u64; 11],
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instruction {}: {};", self.slot, self.reason)?;
        for (n, value) in self.registers.iter().enumerate() {
            write!(f, " r{n}={value:#x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_without_gaps() {
        for (n, reason) in TrapReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, n + 1);
            assert_eq!(TrapReason::from_code(n as u32 + 1), Some(*reason));
        }
        assert_eq!(TrapReason::from_code(0), None);
    }
}
