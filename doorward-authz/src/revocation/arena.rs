//! Records one after the other, in blocks that are never moved.
//!
//! A single growing vector would be copied repeatedly, with readers waiting, and leave unused memory: a million
//! revocations took 10 to 20 MB more.

use super::record::Record;

/// The records of a shard; each is found by the place that [`Arena::add`] gave it.
#[derive(Default)]
pub(super) struct Arena {
    /// A block holds [`BLOCK`] bytes and is allocated whole.
    blocks: Vec<Vec<u8>>,
    /// Bytes of all records.
    len: usize,
}

/// Some 50 to 340 records; a place is a block and an offset in 32 bits, so a shard has room for 4 GiB.
const BLOCK: usize = 8 * 1024;

impl Arena {
    /// Adds the record that `write` appends; `None` if there is no space for it.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Option<u32> {
        let room = self.blocks.last().map_or(0, |block| BLOCK - block.len());
        if room < Record::LARGEST {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let at = self.blocks.len() - 1;
        let block = &mut self.blocks[at];
        let offset = block.len();
        let place = u32::try_from(at * BLOCK + offset).ok()?;
        write(block);
        self.len += block.len() - offset;
        Some(place)
    }

    pub(super) fn record(&self, place: u32) -> Record<'_> {
        let place = place as usize;
        Record::new(&self.blocks[place / BLOCK][place % BLOCK..])
    }

    /// The total length of all added records, in bytes.
    pub(super) const fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::super::TargetId;
    use super::super::record::Watermarks;
    use super::*;
    use crate::revocation::Kind;

    #[test]
    fn records_of_many_blocks_are_found_where_they_were_put() {
        let mut arena = Arena::default();
        let id = |number: usize| TargetId::new(&"i".repeat(number % TargetId::MAX_LEN + 1));
        let places: Vec<_> = (0..5_000)
            .map(|number| {
                let write = |block: &mut Vec<u8>| {
                    Record::write(block, Kind::User, 0, &id(number), &Watermarks::default());
                };
                arena.add(write).unwrap()
            })
            .collect();
        assert!(arena.blocks.len() > 10 && arena.blocks.iter().all(|block| block.capacity() == BLOCK));
        let records = || places.iter().map(|place| arena.record(*place));
        assert!(records().enumerate().all(|(number, record)| record.id() == id(number)));
        assert_eq!(records().map(Record::len).sum::<usize>(), arena.len());
    }
}
