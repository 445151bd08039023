//! Damage to a text: the same on every machine.

/// xorshift64*: the same mutations on every machine.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize;
        high % bound.max(1)
    }
}

/// One to three changes somewhere in the text.
pub(crate) fn mutate(text: &str, rng: &mut Rng) -> String {
    const PIECES: [&str; 20] = [
        "\"",
        "[",
        "]",
        "[[",
        "{",
        "}",
        "=",
        "#",
        "\n",
        "'''",
        "\\",
        "-1",
        "\u{0}",
        "é",
        "\u{202e}",
        "{host}",
        "..",
        "schedule",
        "true",
        "99999999999999999999",
    ];
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..=rng.below(3) {
        let at = rng.below(characters.len() + 1);
        let end = (at + 1 + rng.below(12)).min(characters.len());
        match rng.below(5) {
            0 => drop(characters.drain(at..end)),
            1 => drop(characters.splice(at..at, PIECES[rng.below(PIECES.len())].chars())),
            2 => {
                let copy = characters[at..end].to_vec();
                let to = rng.below(characters.len() + 1);
                characters.splice(to..to, copy);
            }
            3 if at < characters.len() => {
                characters[at] = char::from(u8::try_from(rng.below(128)).expect("below 128"));
            }
            _ => {
                let other = rng.below(characters.len());
                if at < characters.len() {
                    characters.swap(at, other);
                }
            }
        }
    }
    characters.into_iter().collect()
}
