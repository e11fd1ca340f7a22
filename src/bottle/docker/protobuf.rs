//! The wire format of protocol buffers (protobuf.dev, "Encoding"), as much as a build's messages need: fields of a message,
//! each a number or bytes. Knows no message.

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number (varint); fixed ones are read as numbers too.
    Number(u64),
    /// Text, bytes or a message within.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Gets bytes.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Number(_) => b"",
        }
    }

    /// Gets text; what is none is replaced.
    pub fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// Gets a number.
    pub fn number(self) -> u64 {
        match self {
            Value::Number(number) => number,
            Value::Bytes(_) => 0,
        }
    }
}

/// The fields of a message, by number; ends at the first that makes no sense.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Reads a message.
    pub fn of(message: &'a [u8]) -> Fields<'a> {
        Fields(message)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Number(u64::from(u32::from_le_bytes(self.take(4)?.try_into().ok()?))),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

/// Writes a message of one field of bytes.
pub fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        out.push((length as u8 & 0x7f) | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 127, 128, 300, 100_000] {
            let value = vec![7u8; length];
            let message = bytes(3, &value);
            assert_eq!(Fields::of(&message).collect::<Vec<_>>(), [(3, Value::Bytes(&value))]);
        }
    }

    #[test]
    fn fields_of_each_kind_are_read_and_nonsense_ends_it() {
        let message = b"\x08\x96\x01\x12\x02hi\x19\x01\0\0\0\0\0\0\0\x25\x02\0\0\0";
        let fields: Vec<_> = Fields::of(message).collect();
        assert_eq!(
            fields,
            [(1, Value::Number(150)), (2, Value::Bytes(b"hi")), (3, Value::Number(1)), (4, Value::Number(2))]
        );
        for cut in 0..message.len() {
            let _ = Fields::of(&message[..cut]).count();
        }
        for bad in
            [&b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..], b"\x0b", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert_eq!(Fields::of(bad).count(), 0, "{bad:?}");
        }
    }
}
