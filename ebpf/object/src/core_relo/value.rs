//! The numbers that relocations ask for.

use super::patch::Replacement;
use super::spec::Spec;
use super::{Ask, Failure};
use crate::btf::{Btf, Kind, Member, TypeId};

/// The answer to a relocation in one BTF.
#[derive(Clone, Copy)]
pub(super) struct Value<'b> {
    pub(super) number: u64,
    /// Whether the instruction must hold this number before it is replaced. Bit fields and type ids are
    /// exempt: compilers choose the former's access and write the latter before they are final.
    exact: bool,
    /// For offsets of whole fields: what is loaded or stored there.
    field: Option<Field<'b>>,
}

/// A field as memory instructions access it.
#[derive(Clone, Copy)]
struct Field<'b> {
    btf: &'b Btf,
    ty: TypeId,
    bytes: u64,
}

impl Value<'_> {
    fn new(number: u64) -> Self {
        Value {
            number,
            exact: true,
            field: None,
        }
    }
}

/// The answer at the end of a path, or without one (the type, member or enumerator does not exist). `None` if
/// the answer does not exist either.
pub(super) fn of<'b>(ask: Ask, spec: Option<&Spec<'b>>) -> Result<Option<Value<'b>>, Failure> {
    let Some(spec) = spec else {
        let answers_absence = matches!(
            ask,
            Ask::FieldExists
                | Ask::TypeExists
                | Ask::TypeSize
                | Ask::TypeMatches
                | Ask::TypeIdTarget
                | Ask::EnumValueExists
        );
        return Ok(answers_absence.then(|| Value::new(0)));
    };
    match ask {
        Ask::FieldExists | Ask::TypeExists | Ask::TypeMatches | Ask::EnumValueExists => {
            Ok(Some(Value::new(1)))
        }
        Ask::TypeSize => Ok(Some(Value::new(size(spec.btf, spec.root)?))),
        Ask::TypeIdLocal | Ask::TypeIdTarget => Ok(Some(Value {
            exact: false,
            ..Value::new(spec.root.0.into())
        })),
        Ask::EnumValue => enumerator(spec).map(Some),
        _ => field(ask, spec).map(Some),
    }
}

fn size(btf: &Btf, ty: TypeId) -> Result<u64, Failure> {
    btf.size_of(ty).map_err(|e| e.to_string())
}

fn enumerator<'b>(spec: &Spec<'b>) -> Result<Value<'b>, Failure> {
    spec.steps
        .first()
        .and_then(|step| match &spec.btf.get(step.ty)?.kind {
            Kind::Enum { values, .. } => values.get(step.index as usize),
            _ => None,
        })
        .map(|v| Value::new(v.value))
        .ok_or_else(|| "the enumerator does not exist".into())
}

fn field<'b>(ask: Ask, spec: &Spec<'b>) -> Result<Value<'b>, Failure> {
    let last = spec.steps.last().ok_or("its path is empty")?;
    let member = last
        .name
        .and_then(|_| spec.btf.members(last.ty)?.get(last.index as usize));
    match member {
        Some(member) => of_member(ask, spec, member),
        None => of_element(ask, spec, last.ty),
    }
}

/// Elements of arrays have no bits to speak of: only their place and size can be asked.
fn of_element<'b>(ask: Ask, spec: &Spec<'b>, ty: TypeId) -> Result<Value<'b>, Failure> {
    let bytes = size(spec.btf, ty)?;
    match ask {
        Ask::FieldOffset => Ok(Value {
            field: Some(Field {
                btf: spec.btf,
                ty,
                bytes,
            }),
            ..Value::new(spec.bit_offset / 8)
        }),
        Ask::FieldSize => Ok(Value::new(bytes)),
        _ => Err("it asks for bits of an array element".into()),
    }
}

fn of_member<'b>(ask: Ask, spec: &Spec<'b>, member: &Member) -> Result<Value<'b>, Failure> {
    let bits = Bits::of(spec, member)?;
    let exact = !bits.bitfield;
    let number = match ask {
        Ask::FieldOffset => bits.byte_offset,
        Ask::FieldSize => bits.bytes,
        Ask::FieldSigned => signed(spec.btf, member.ty)?.into(),
        Ask::FieldShiftLeft => bits.shift_left()?,
        _ => 64u64
            .checked_sub(bits.width)
            .ok_or("the field is wider than 64 bits")?,
    };
    Ok(Value {
        number,
        exact: exact || ask == Ask::FieldSigned,
        field: (ask == Ask::FieldOffset && exact).then_some(Field {
            btf: spec.btf,
            ty: member.ty,
            bytes: bits.bytes,
        }),
    })
}

/// Enumerations count as signed only if their BTF says so.
fn signed(btf: &Btf, ty: TypeId) -> Result<bool, Failure> {
    match btf.resolve(ty).map(|(_, t)| &t.kind) {
        Some(Kind::Int { signed, .. } | Kind::Enum { signed, .. }) => Ok(*signed),
        _ => Err("it asks for the signedness of something that is no integer".into()),
    }
}

/// Which bytes to load to have a field, and where in them its bits are.
struct Bits {
    byte_offset: u64,
    bytes: u64,
    /// Offset from the root and width, both in bits.
    offset: u64,
    width: u64,
    bitfield: bool,
}

impl Bits {
    fn of(spec: &Spec<'_>, member: &Member) -> Result<Bits, Failure> {
        let offset = spec.bit_offset;
        let bytes = size(spec.btf, member.ty)?;
        if member.bit_width == 0 {
            let width = bytes.checked_mul(8).ok_or("the field is too large")?;
            return Ok(Bits {
                byte_offset: offset / 8,
                bytes,
                offset,
                width,
                bitfield: false,
            });
        }
        let width = u64::from(member.bit_width);
        let end = offset
            .checked_add(width)
            .ok_or("the field is too far away")?;
        // The smallest aligned load of the declared type's size or more that has all bits.
        let mut bytes = bytes;
        loop {
            if bytes == 0 || bytes > 8 {
                return Err("the bit field does not fit a 64-bit load".into());
            }
            let byte_offset = offset / 8 / bytes * bytes;
            if end <= (byte_offset + bytes).saturating_mul(8) {
                return Ok(Bits {
                    byte_offset,
                    bytes,
                    offset,
                    width,
                    bitfield: true,
                });
            }
            bytes *= 2;
        }
    }

    /// How far to shift the loaded bytes left to drop what is above the field (little-endian).
    fn shift_left(&self) -> Result<u64, Failure> {
        let above = self
            .offset
            .checked_add(self.width)
            .and_then(|end| end.checked_sub(self.byte_offset.checked_mul(8)?));
        above
            .and_then(|above| 64u64.checked_sub(above))
            .ok_or_else(|| "the field is wider than 64 bits".into())
    }
}

/// From the answers before and after to what becomes of the instruction.
pub(super) fn replacement(
    ask: Ask,
    before: Option<Value<'_>>,
    after: Option<Value<'_>>,
) -> Replacement {
    let (Some(before), Some(after)) = (before, after) else {
        return Replacement::Poison;
    };
    let mut sizes = None;
    let mut size_unsafe = false;
    if let (Ask::FieldOffset, Some(b), Some(a)) = (ask, before.field, after.field) {
        sizes = Some((b.bytes, a.bytes));
        size_unsafe = a.bytes != b.bytes && !resizable(b, a);
    }
    Replacement::Number {
        before: before.exact.then_some(before.number),
        after: after.number,
        sizes: sizes.filter(|(b, a)| b != a),
        size_unsafe,
    }
}

/// Whether a load of one field may become a load of the other, of another size: zero-extension keeps only
/// pointers and unsigned integers intact.
fn resizable(before: Field<'_>, after: Field<'_>) -> bool {
    let kinds = before
        .btf
        .resolve(before.ty)
        .zip(after.btf.resolve(after.ty));
    match kinds.map(|((_, b), (_, a))| (&b.kind, &a.kind)) {
        Some((Kind::Ptr(_), Kind::Ptr(_))) => true,
        Some((Kind::Int { signed: b, .. }, Kind::Int { signed: a, .. })) => !a && !b,
        _ => false,
    }
}
