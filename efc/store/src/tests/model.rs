//! Whatever is read, filled, changed and reopened: what is there is what was put there.

use std::collections::HashSet;

use crate::testing::{Dice, MIB, changed_key, close, hits_part, open, read, snapshot};

/// Files of one byte to three blocks, small and large.
const SIZES: [u64; 6] = [1, 5000, 64 << 10, (64 << 10) + 1, MIB, 3 * MIB - 7];

#[test]
fn what_was_put_there_is_there_and_after_reopening_too() {
    for root in ["/dev/shm", "/tmp"] {
        let directory = tempfile::tempdir_in(root).expect("a directory");
        let mut store = open(directory.path(), 1 << 30);
        let (mut dice, mut there, mut changes) = (Dice(1), HashSet::new(), [0; 30]);
        for step in 0..1500 {
            if step % 300 == 299 {
                close(store);
                store = open(directory.path(), 1 << 30);
                assert_eq!(store.figures().hits, 0);
            }
            let file = dice.draw(30) as usize;
            if dice.draw(40) == 0 {
                changes[file] += 1;
                continue;
            }
            let size = SIZES[file % SIZES.len()];
            let key = changed_key(&format!("file {file}"), size, dice.draw(size.div_ceil(MIB)), changes[file]);
            let begin = dice.draw(key.length() as u64) as usize;
            let part = begin..begin + 1 + dice.draw((key.length() - begin).min(9000) as u64) as usize;
            assert_eq!(hits_part(&*store, &key, part), there.contains(&(file, changes[file], key.index)), "{key:?}");
            if there.iter().any(|(other, change, _)| *other == file && *change != changes[file]) {
                assert!(!read(&*store, &key), "another version");
                there.retain(|(other, ..)| *other != file);
            } else {
                assert_eq!(read(&*store, &key), there.contains(&(file, changes[file], key.index)), "{key:?}");
            }
            there.insert((file, changes[file], key.index));
        }
        let figures = store.figures();
        assert_eq!((figures.refused, figures.damaged, figures.late), (0, 0, 0));
        let files: HashSet<usize> = there.iter().map(|(file, ..)| *file).collect();
        assert_eq!(figures.files, files.len() as u64);
    }
}

#[test]
fn in_little_room_nothing_is_wrong_and_nothing_above_the_size() {
    let directory = tempfile::tempdir().expect("a directory");
    let size_max = 12 * MIB;
    let mut store = open(directory.path(), size_max);
    let mut dice = Dice(2);
    let mut hits = 0;
    for step in 0..2000 {
        if step % 400 == 399 {
            close(store);
            store = open(directory.path(), size_max);
        }
        let file = dice.draw(60).min(dice.draw(60));
        let size = SIZES[file as usize % SIZES.len()];
        let key = changed_key(&format!("file {file}"), size, dice.draw(size.div_ceil(MIB)), dice.draw(50) as u32 / 49);
        hits += u64::from(read(&*store, &key));
        let held = store.figures().held_bytes;
        assert!(held <= size_max, "{held} bytes are held");
    }
    assert!(hits > 200, "{hits} hits");
    close(store);
    let on_disk: u64 = snapshot_blocks(directory.path());
    assert!(on_disk <= size_max + MIB, "{on_disk} bytes lie there");
}

/// What `du` says.
fn snapshot_blocks(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = snapshot(path);
    files.keys().map(|file| std::fs::metadata(file).expect("there").blocks() * 512).sum()
}
