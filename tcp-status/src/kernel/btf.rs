//! Whether bytes are BTF that the libraries which read it can take: these follow numbers in it
//! without a look, and would panic or never end. Knows the form, no names.
//! See `Documentation/bpf/btf.rst` of the kernel.

/// `BTF_MAGIC`, in the order of bytes of this host.
const MAGIC: u16 = 0xeb9f;
/// `struct btf_header`: magic, version and flags, then the five numbers that are read here.
const HEADER: usize = 24;
/// `struct btf_type`: name, information, size or type.
const TYPE: usize = 12;

/// How deep types may lie in each other: as `MAX_RESOLVE_DEPTH` of the kernel, and as much again.
const DEEPEST: u32 = 64;
/// How many members one type may have, those of its members included. Kernels have some
/// ten thousand.
const MOST_MEMBERS: u64 = 10_000_000;

/// Says what is wrong with the bytes, if anything.
pub(super) fn check(bytes: &[u8]) -> Result<(), &'static str> {
    let (types, strings) = sections(bytes).ok_or("its sections lie outside of it")?;
    if strings.first() != Some(&0) || strings.last() != Some(&0) {
        return Err("its names do not end");
    }
    Contents::read(types, strings.len())?.check()
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

/// Which types each type contains, itself and not by a pointer.
#[derive(Default)]
struct Contents {
    /// Of all types, one after the other.
    contained: Vec<u32>,
    /// Where those of a type end; the first is `void`, which contains nothing.
    ends: Vec<usize>,
}

/// How far a type reaches.
#[derive(Clone, Copy)]
struct Extent {
    depth: u32,
    members: u64,
}

impl Contents {
    fn read(mut types: &[u8], names: usize) -> Result<Self, &'static str> {
        let mut contents = Self {
            contained: Vec::new(),
            ends: vec![0],
        };
        while !types.is_empty() {
            let size = contents.push(types, names)?;
            types = types.get(size..).ok_or("a type is cut short")?;
        }
        Ok(contents)
    }

    /// Adds the first of `types`; says how long it is.
    fn push(&mut self, types: &[u8], names: usize) -> Result<usize, &'static str> {
        const CUT: &str = "a type is cut short";
        let number = |at| word(types, at).ok_or(CUT);
        let (name, information, size_or_type) = (number(0)?, number(4)?, number(8)?);
        let count = (information & 0xffff) as usize;
        let size = match information >> 24 & 0x1f {
            // Integers, variables, tags of declarations.
            1 | 14 | 17 => 4,
            // Arrays: of what, by what, how many.
            3 => {
                self.contained.push(number(TYPE)?);
                12
            }
            // Structures and unions: name, type and offset of each member.
            4 | 5 => {
                for member in 0..count {
                    let at = TYPE + member * 12;
                    if number(at)? as usize >= names {
                        return Err("a member's name lies outside of the names");
                    }
                    self.contained.push(number(at + 4)?);
                }
                count * 12
            }
            // Declared only, other names, volatile, const, restrict, tags of types.
            7..=11 | 18 => {
                self.contained.push(size_or_type);
                0
            }
            // Enumerations, parameters of functions.
            6 | 13 => count * 8,
            // Sections, enumerations of 64 bits.
            15 | 19 => count * 12,
            // Pointers, functions, floating-point numbers.
            2 | 12 | 16 => 0,
            _ => return Err("a type is of an unknown kind"),
        };
        if name as usize >= names {
            return Err("a type's name lies outside of the names");
        }
        self.ends.push(self.contained.len());
        Ok(TYPE + size)
    }

    /// Refuses types that do not exist, and types that lie in each other without end.
    fn check(&self) -> Result<(), &'static str> {
        let mut known = vec![None; self.ends.len()];
        (0..self.ends.len()).try_for_each(|id| self.extent(id, 0, &mut known).map(drop))
    }

    fn extent(
        &self,
        id: usize,
        above: u32,
        known: &mut [Option<Extent>],
    ) -> Result<Extent, &'static str> {
        const DEEP: &str = "types lie in each other without end";
        match known.get(id) {
            None => return Err("a type is made of one that is not there"),
            Some(Some(extent)) => return Ok(*extent),
            Some(None) if above > DEEPEST => return Err(DEEP),
            Some(None) => {}
        }
        let begin = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        let mut extent = Extent {
            depth: 0,
            members: 1,
        };
        for &contained in &self.contained[begin..self.ends[id]] {
            let part = self.extent(contained as usize, above + 1, known)?;
            extent.depth = extent.depth.max(part.depth + 1);
            extent.members += part.members;
            if extent.depth > DEEPEST || extent.members > MOST_MEMBERS {
                return Err(DEEP);
            }
        }
        known[id] = Some(extent);
        Ok(extent)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{HEADER, MAGIC, check};
    use crate::kernel::host::VMLINUX_BTF;

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
    fn the_running_kernel_is_taken() {
        let Ok(bytes) = fs::read(VMLINUX_BTF) else {
            tcp_status_testkit::skip(&format!("no {VMLINUX_BTF} here"));
            return;
        };
        assert_eq!(check(&bytes), Ok(()));
        assert!(check(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn what_the_libraries_would_follow_for_ever_is_refused() {
        assert_eq!(check(&btf(&[1, TYPEDEF, 0])), Ok(()));
        for types in [
            // A name of its own name, two of each other, a structure in itself.
            &[1, TYPEDEF, 1][..],
            &[1, TYPEDEF, 2, 1, TYPEDEF, 1],
            &[1, STRUCT | 1, 4, 0, 1, 0],
        ] {
            assert!(check(&btf(types)).unwrap_err().contains("without end"));
        }
        // Each holds the one before twice: few types, and more members than can be counted.
        let doubling = (0..60).flat_map(|inner| [1, STRUCT | 2, 4, 0, inner, 0, 0, inner, 0]);
        let doubling: Vec<_> = doubling.collect();
        assert!(check(&btf(&doubling)).unwrap_err().contains("without end"));
    }

    #[test]
    fn numbers_that_lead_outside_are_refused() {
        for types in [
            &[1, TYPEDEF, 2][..],
            &[99, TYPEDEF, 0],
            &[1, STRUCT | 1, 4, 99, 0, 0],
            &[1, STRUCT | 1, 4, 0, 0],
            &[1, 31 << 24, 0],
            &[1, TYPEDEF],
        ] {
            assert!(check(&btf(types)).is_err(), "{types:?}");
        }
        let whole = btf(&[1, TYPEDEF, 0]);
        for end in 0..whole.len() {
            assert!(check(&whole[..end]).is_err(), "{end} bytes");
        }
        for at in (4..HEADER).step_by(4) {
            let mut bytes = whole.clone();
            bytes[at..at + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
            assert!(check(&bytes).is_err(), "number at {at}");
        }
    }
}
