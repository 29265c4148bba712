use bytes::Bytes;
use efc_backend::Cred;
use efc_tasks::sync::MutexGuard;
use std::sync::Arc;

use super::*;
use crate::testing::handle;

fn chunk(length: usize, memory: u64) -> Chunk {
    let data = Bytes::from(vec![7; length]);
    Chunk { memory, ..Chunk::new(0, (data, 0), Cred::root(), [0; 8]) }
}

#[test]
fn there_is_room_up_to_the_limits_and_what_is_not_used_goes_back() {
    let writes = Writes::new(100, 2);
    let mut room = writes.reserve(60).expect("it fits");
    assert!(writes.reserve(60).is_none() && writes.is_half_full());
    assert_eq!([room.take(20), room.take(u64::MAX)], [20, 40]);
    drop(room);
    assert!(writes.reserve(60).is_none(), "taken over by writes");
    let inodes = crate::testing::inodes();
    let file = inodes.of(&handle(b"file"));
    let mut pending = file.writes().pending();
    for memory in [20, 40] {
        writes.add(&file, &mut pending, chunk(memory as usize, memory));
    }
    assert!(writes.reserve(1).is_none(), "two writes wait");
    assert_eq!(writes.bytes(), 60);
    let mut retired = Vec::new();
    writes.remove(&file, &mut pending, 2, |chunk| retired.push(chunk.memory));
    assert_eq!((retired, writes.bytes()), (vec![20, 40], 0));
    assert!(writes.reserve(100).is_some());
}

#[test]
fn a_file_that_was_written_to_in_many_small_writes_keeps_no_room_for_them() {
    let (writes, file) = (Writes::new(1 << 30, 1 << 20), crate::testing::inodes().of(&handle(b"file")));
    let mut pending = file.writes().pending();
    (0..5000).for_each(|_| writes.add(&file, &mut pending, chunk(1, 1)));
    writes.remove(&file, &mut pending, 4990, |_| {});
    assert!(pending.chunks.capacity() < 100, "room for {} writes, and 10 wait", pending.chunks.capacity());
    writes.remove(&file, &mut pending, 10, |_| {});
    assert!(pending.chunks.capacity() <= super::pending::SPARE_MAX);
}

fn held(offset: u64, data: &[u8], uid: u32) -> Chunk {
    let cred = Cred { uid, ..Cred::root() };
    Chunk { offset, data: Bytes::copy_from_slice(data), stage: Stage::Unsent, cred, ..chunk(0, 0) }
}

struct Scene {
    writes: Writes,
    file: Arc<Inode>,
}

impl Scene {
    fn new(chunks: &[(u64, &[u8], u32)]) -> Scene {
        let scene = Scene { writes: Writes::new(1 << 20, 100), file: crate::testing::inodes().of(&handle(b"file")) };
        chunks.iter().for_each(|(offset, data, uid)| scene.add(held(*offset, data, *uid)));
        scene
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.file.writes().pending()
    }

    fn add(&self, chunk: Chunk) {
        self.writes.add(&self.file, &mut self.pending(), chunk);
    }

    fn take(&self) -> Option<(u64, Bytes)> {
        let mut pending = self.pending();
        pending.want_all();
        pending.take_piece(8).map(|piece| (piece.range.start, piece.data))
    }
}

#[test]
fn adjacent_data_of_one_user_leaves_together() {
    let scene =
        Scene::new(&[(4, b"bb", 1), (2, b"aa", 1), (6, b"cc", 2), (20, b"dd", 1), (5, b"XY", 1), (8, b"ee", 2)]);
    assert!(scene.pending().take_piece(8).is_none(), "nobody wants it sent");
    let piece = |at, data: &'static [u8]| Some((at, Bytes::from_static(data)));
    assert_eq!(scene.take(), piece(2, b"aabb"), "what overlaps another user's data comes after that");
    assert_eq!(scene.take(), piece(6, b"ccee"));
    assert_eq!(scene.take(), piece(20, b"dd"));
    assert_eq!(scene.take(), None, "older data of these bytes is in flight");
    assert_eq!(scene.pending().unanswered_end(), Some(22));
}

#[test]
fn a_piece_is_as_long_as_a_call_unless_one_write_is_longer() {
    let scene = Scene::new(&[(0, b"aaaaa", 1), (5, b"bbb", 1), (8, b"c", 1), (20, b"0123456789", 1)]);
    let lengths: Vec<usize> = std::iter::from_fn(|| scene.take()).map(|(_, data)| data.len()).collect();
    assert_eq!(lengths, [8, 1, 10]);
    let apart = Scene::new(&[]);
    (0..20).for_each(|number| apart.add(held(number * 100, b"x", 1)));
    assert_eq!(std::iter::from_fn(|| apart.take()).count(), pending::PIECES_MAX);
}

#[test]
fn what_is_not_answered_is_read_the_newest_first() {
    let scene = Scene::new(&[(0, b"aaaa", 1), (4, b"bbbb", 1)]);
    assert!(scene.take().is_some());
    scene.add(held(3, b"cc", 1));
    let mut data = [0; 6];
    assert!(scene.file.read_unanswered(1, &mut data));
    assert_eq!(&data, b"aaccbb");
    assert!(!scene.file.read_unanswered(4, &mut data), "beyond what is there");
}

#[test]
fn an_answer_shows_all_if_it_was_asked_for_after_the_last_answer_to_data() {
    let scene = Scene::new(&[(0, b"aaaa", 1)]);
    let early = crate::testing::tick();
    assert!(!scene.file.shows_all(early));
    let mut pending = scene.pending();
    pending.want_all();
    let piece = pending.take_piece(8).expect("it is wanted");
    scene.writes.written(&scene.file, &mut pending, &piece, ([1; 8], false), |_| {});
    drop(pending);
    assert!(!scene.file.shows_all(early) && scene.file.shows_all(crate::testing::tick()));
    assert_eq!((scene.writes.unanswered_bytes(), scene.writes.bytes()), (0, 4));
    assert_eq!(scene.pending().answered_first(), 1);
}

#[test]
fn neither_a_file_nor_a_user_takes_all_memory() {
    let (writes, inodes) = (Writes::new(100, 1000), crate::testing::inodes());
    let [one, other, third] = [b"one".as_slice(), b"other", b"third"].map(|name| inodes.of(&handle(name)));
    let add = |file: &Arc<Inode>, length: usize| {
        let mut pending = file.writes().pending();
        writes.add(file, &mut pending, held(0, &vec![0; length], 7));
    };
    add(&one, 40);
    add(&other, 45);
    assert!(writes.too_large(&one, 7, |_| true).is_none());
    add(&third, 3);
    assert_eq!(writes.too_large(&one, 7, |_| true), Some(other));
    assert!(writes.too_large(&one, 8, |_| true).is_none(), "another user");
    add(&one, 40);
    assert_eq!(writes.too_large(&one, 8, |_| true), Some(one));
}

#[test]
fn files_with_uncommitted_data_are_listed_and_stay() {
    let (writes, inodes) = (Writes::new(1 << 20, 100), crate::testing::inodes());
    let [small, large] = [(b"small", 10), (b"large", 1000)].map(|(name, length)| {
        let file = inodes.of(&handle(name));
        writes.add(&file, &mut file.writes().pending(), chunk(length, 0));
        file
    });
    assert_eq!(writes.largest(|_| true).expect("two").handle(), large.handle());
    assert_eq!(writes.files().len(), 2);
    assert!(!small.is_idle());
    writes.remove(&large, &mut large.writes().pending(), 1, |_| {});
    assert_eq!(writes.largest(|_| true).expect("one").handle(), small.handle());
    assert!(large.is_idle());
}
