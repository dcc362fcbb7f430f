//! BTF, the form in which the kernel shows its types: whether bytes are that, and where members of
//! structures lie. Knows the form, no names. See `Documentation/bpf/btf.rst` of the kernel.

/// `BTF_MAGIC`, in the order of bytes of this host.
const MAGIC: u16 = 0xeb9f;
/// `struct btf_header`: magic, version and flags, then the five numbers that are read here.
const HEADER: usize = 24;
/// `struct btf_type`: name, information, size or type.
const TYPE: usize = 12;
/// `struct btf_member`: name, type, offset.
const MEMBER: usize = 12;

/// How many members and type names a look-up follows at most, so that types which contain each other
/// end it.
const STEPS: u32 = 100_000;
/// How deep structures without a name may lie in each other: as `MAX_RESOLVE_DEPTH` of the kernel.
const DEEPEST: u32 = 32;

/// The numbers of kinds of types.
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Other names, and attributes of types.
const NAMES: [u32; 5] = [8, 9, 10, 11, 18];

/// Where a member lies in a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemberLocation {
    /// From the beginning of the structure, in bits.
    pub(super) bits: u32,
    /// The bits that it has, where it is a bit field.
    pub(super) width: Option<u32>,
}

/// The types of a kernel, by number.
pub(super) struct Types<'a> {
    types: &'a [u8],
    names: &'a [u8],
    /// Where each begins. The first number is that of `void`, which is not there.
    offsets: Vec<usize>,
}

impl<'a> Types<'a> {
    /// Says what is wrong with the bytes, if anything. Those that are right do no harm to aya, which
    /// follows lengths and names without a look.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let (types, names) = sections(bytes).ok_or("its sections lie outside of it")?;
        if names.first() != Some(&0) || names.last() != Some(&0) {
            return Err("its names do not end");
        }
        let mut offsets = Vec::new();
        let mut at = 0;
        while at < types.len() {
            offsets.push(at);
            at += length(&types[at..], names.len())?;
        }
        if at > types.len() {
            return Err(CUT);
        }
        Ok(Self {
            types,
            names,
            offsets,
        })
    }

    /// Where a member of a type lies, or a member of that one, and so on: names with dots between
    /// them. Those of structures without a name are those of what contains these.
    pub(super) fn locate(&self, id: u32, path: &str) -> Option<MemberLocation> {
        let mut steps = STEPS;
        let (mut location, mut id) = (
            MemberLocation {
                bits: 0,
                width: None,
            },
            id,
        );
        for name in path.split('.') {
            let (within, of) = self.member(id, name.as_bytes(), DEEPEST, &mut steps)?;
            location.bits = location.bits.checked_add(within.bits)?;
            location.width = within.width;
            id = of;
        }
        Some(location)
    }

    /// How many bytes a structure takes.
    pub(super) fn size(&self, id: u32) -> Option<u32> {
        word(self.structure(id, &mut { STEPS })?, 8)
    }

    /// Whether the member that [`Types::location`] finds is a pointer.
    pub(super) fn is_pointer(&self, id: u32, path: &str) -> Option<bool> {
        const POINTER: u32 = 2;
        let bytes = self.type_of(id, path)?;
        Some(kind(word(bytes, 4)?) == POINTER)
    }

    /// How many elements the member that [`Types::location`] finds has, which is an array.
    pub(super) fn elements(&self, id: u32, path: &str) -> Option<u32> {
        const ARRAY: u32 = 3;
        let bytes = self.type_of(id, path)?;
        (kind(word(bytes, 4)?) == ARRAY).then(|| word(bytes, TYPE + 8))?
    }

    /// How many parameters a function has.
    pub(super) fn parameters(&self, function: u32) -> Option<u32> {
        const PROTOTYPE: u32 = 13;
        let mut steps = STEPS;
        let of = word(self.unnamed(function, &mut steps)?, 8)?;
        let information = word(self.unnamed(of, &mut steps)?, 4)?;
        (kind(information) == PROTOTYPE).then_some(information & 0xffff)
    }

    /// The type of a member, without its other names.
    fn type_of(&self, id: u32, path: &str) -> Option<&'a [u8]> {
        let mut steps = STEPS;
        let mut id = id;
        for name in path.split('.') {
            id = self.member(id, name.as_bytes(), DEEPEST, &mut steps)?.1;
        }
        self.unnamed(id, &mut steps)
    }

    /// A member, and its type.
    fn member(
        &self,
        id: u32,
        name: &[u8],
        depth: u32,
        steps: &mut u32,
    ) -> Option<(MemberLocation, u32)> {
        let below = depth.checked_sub(1)?;
        let structure = self.structure(id, steps)?;
        let information = word(structure, 4)?;
        let has_widths = information >> 31 == 1;
        for member in 0..(information & 0xffff) as usize {
            *steps = steps.checked_sub(1)?;
            let number = |at| word(structure, TYPE + member * MEMBER + at);
            let (own, of, offset) = (self.name(number(0)?)?, number(4)?, number(8)?);
            let location = MemberLocation {
                bits: if has_widths {
                    offset & 0xff_ffff
                } else {
                    offset
                },
                width: Some(offset >> 24).filter(|&width| has_widths && width > 0),
            };
            if !own.is_empty() && own == name {
                return Some((location, of));
            }
            if own.is_empty()
                && let Some((within, of)) = self.member(of, name, below, steps)
            {
                let bits = location.bits.checked_add(within.bits)?;
                return Some((MemberLocation { bits, ..within }, of));
            }
        }
        None
    }

    /// The structure or union that a type is, by whatever names.
    fn structure(&self, id: u32, steps: &mut u32) -> Option<&'a [u8]> {
        let bytes = self.unnamed(id, steps)?;
        matches!(kind(word(bytes, 4)?), STRUCT | UNION).then_some(bytes)
    }

    /// A type without its other names.
    fn unnamed(&self, mut id: u32, steps: &mut u32) -> Option<&'a [u8]> {
        loop {
            *steps = steps.checked_sub(1)?;
            let begin = *self.offsets.get((id as usize).checked_sub(1)?)?;
            let bytes = &self.types[begin..];
            match kind(word(bytes, 4)?) {
                name if NAMES.contains(&name) => id = word(bytes, 8)?,
                _ => return Some(bytes),
            }
        }
    }

    fn name(&self, at: u32) -> Option<&'a [u8]> {
        self.names
            .get(at as usize..)?
            .split(|&byte| byte == 0)
            .next()
    }
}

const CUT: &str = "a type is cut short";

const fn kind(information: u32) -> u32 {
    information >> 24 & 0x1f
}

/// How long the first of `types` is.
fn length(types: &[u8], names: usize) -> Result<usize, &'static str> {
    let number = |at| word(types, at).ok_or(CUT);
    let (name, information) = (number(0)?, number(4)?);
    number(8)?;
    let count = (information & 0xffff) as usize;
    let more = match kind(information) {
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => 4,
        // Arrays: of what, by what, how many.
        3 => 12,
        STRUCT | UNION => {
            for member in 0..count {
                if number(TYPE + member * MEMBER)? as usize >= names {
                    return Err("a member's name lies outside of the names");
                }
            }
            count * MEMBER
        }
        // Declared only, floating-point numbers, pointers, functions.
        2 | 7 | 12 | 16 => 0,
        name if NAMES.contains(&name) => 0,
        // Enumerations, parameters of functions.
        6 | 13 => count * 8,
        // Sections, enumerations of 64 bits.
        15 | 19 => count * 12,
        _ => return Err("a type is of an unknown kind"),
    };
    if name as usize >= names {
        return Err("a type's name lies outside of the names");
    }
    Ok(TYPE + more)
}

/// A number of four bytes; none behind the end.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let number = bytes.get(at..)?.first_chunk().copied();
    number.map(u32::from_ne_bytes)
}

/// The types and their names.
fn sections(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if u16::from_ne_bytes(*bytes.first_chunk()?) != MAGIC {
        return None;
    }
    let number = |at| word(bytes, at).map(|number| number as usize);
    let header = number(4)?;
    let section = |at| {
        let begin = header.checked_add(number(at)?)?;
        let end = begin.checked_add(number(at + 4)?)?;
        bytes.get(begin..end)
    };
    (header >= HEADER).then_some((section(8)?, section(16)?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{HEADER, MAGIC, MemberLocation, Types};
    use crate::kernel::layout::VMLINUX_BTF;

    const STRINGS: &[u8] = b"\0sock\0";
    const TYPEDEF: u32 = 8 << 24;
    const STRUCT: u32 = 4 << 24;

    fn btf(types: &[u32]) -> Vec<u8> {
        let length = u32::try_from(types.len() * 4).unwrap();
        let strings = u32::try_from(STRINGS.len()).unwrap();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let header = u32::try_from(HEADER).unwrap();
        for number in [header, 0, length, length, strings].iter().chain(types) {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(STRINGS);
        bytes
    }

    #[test]
    fn a_function_has_as_many_parameters_as_its_prototype() {
        const PROTOTYPE: u32 = 13 << 24;
        const FUNCTION: u32 = 12 << 24;
        let parameters = [0; 8];
        let types = [&[0, PROTOTYPE | 4, 0], &parameters[..], &[1, FUNCTION, 1]].concat();
        let bytes = btf(&types);
        let types = Types::read(&bytes).unwrap();
        assert_eq!((types.parameters(2), types.parameters(1)), (Some(4), None));
    }

    #[test]
    fn the_running_kernel_is_taken() {
        let Ok(bytes) = fs::read(VMLINUX_BTF) else {
            tcp_status_testkit::skip(&format!("no {VMLINUX_BTF} here"));
            return;
        };
        assert!(Types::read(&bytes).is_ok());
        assert!(Types::read(&bytes[..bytes.len() - 1]).is_err());
    }

    /// The name that all types and members have is `sock`.
    #[test]
    fn a_member_is_found_by_its_names() {
        let word = [1, 1 << 24, 4, 32];
        // A structure without a name behind 4 bytes, in which a bit field follows 4 bytes more.
        let inner = [0, STRUCT | 1 << 31 | 1, 8, 1, 1, 5 << 24 | 32];
        let outer = [1, STRUCT | 1, 12, 0, 2, 32];
        let bytes = btf(&[&word[..], &inner, &outer, &[1, TYPEDEF, 3]].concat());
        let types = Types::read(&bytes).unwrap();
        let found = Some(MemberLocation {
            bits: 64,
            width: Some(5),
        });
        assert_eq!(
            (types.locate(3, "sock"), types.locate(4, "sock")),
            (found, found)
        );
        for (id, path) in [
            (0, "sock"),
            (1, "sock"),
            (3, "sock.sock"),
            (3, ""),
            (5, "sock"),
        ] {
            assert_eq!(types.locate(id, path), None, "{path} of {id}");
        }
    }

    #[test]
    fn types_that_contain_each_other_end_a_look_up() {
        // Each holds the one before twice: few types, and more members than can be counted.
        let doubling = (0..60).flat_map(|inner| [1, STRUCT | 2, 4, 0, inner, 0, 0, inner, 0]);
        let doubling: Vec<_> = doubling.collect();
        for types in [
            // A name of its own name, two of each other, a structure in itself.
            &[1, TYPEDEF, 1][..],
            &[1, TYPEDEF, 2, 1, TYPEDEF, 1],
            &[1, STRUCT | 1, 4, 0, 1, 0],
            &doubling,
        ] {
            let bytes = btf(types);
            let types = Types::read(&bytes).unwrap();
            for id in 0..=60 {
                assert_eq!(types.locate(id, "sock"), None);
            }
        }
    }

    #[test]
    fn numbers_that_lead_outside_are_refused() {
        for types in [
            &[99, TYPEDEF, 0][..],
            &[1, STRUCT | 1, 4, 99, 0, 0],
            &[1, STRUCT | 1, 4, 0, 0],
            &[1, 31 << 24, 0],
            &[1, TYPEDEF],
        ] {
            assert!(Types::read(&btf(types)).is_err(), "{types:?}");
        }
        let whole = btf(&[1, TYPEDEF, 0]);
        for end in 0..whole.len() {
            assert!(Types::read(&whole[..end]).is_err(), "{end} bytes");
        }
        for at in (4..HEADER).step_by(4) {
            let mut bytes = whole.clone();
            bytes[at..at + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
            assert!(Types::read(&bytes).is_err(), "number at {at}");
        }
    }
}
