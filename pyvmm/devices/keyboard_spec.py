"""The keys of a 102-key keyboard, by the names that QEMU has for them, and their scan codes.

Sources: IBM, PS/2 Hardware Interface Technical Reference (1990), "Keyboards (101- and 102-key)";
QEMU, qapi/ui.json, QKeyCode.
"""

from __future__ import annotations

# In the order of their codes in set 1, from 1 on.
_PLAIN = """
    esc 1 2 3 4 5 6 7 8 9 0 minus equal backspace
    tab q w e r t y u i o p bracket_left bracket_right ret
    ctrl a s d f g h j k l semicolon apostrophe grave_accent
    shift backslash z x c v b n m comma dot slash shift_r
    kp_multiply alt spc caps_lock f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 num_lock scroll_lock
    kp_7 kp_8 kp_9 kp_subtract kp_4 kp_5 kp_6 kp_add kp_1 kp_2 kp_3 kp_0 kp_decimal sysrq
"""
_LATER = {"less": 0x56, "f11": 0x57, "f12": 0x58}
EXTENDED, PAUSE = 0xE0, 0xE1  # what begins the sequences of keys that there once were not
_EXTENDED = {
    "kp_enter": 0x1C,
    "ctrl_r": 0x1D,
    "kp_divide": 0x35,
    "print": 0x37,
    "alt_r": 0x38,
    "home": 0x47,
    "up": 0x48,
    "pgup": 0x49,
    "left": 0x4B,
    "right": 0x4D,
    "end": 0x4F,
    "down": 0x50,
    "pgdn": 0x51,
    "insert": 0x52,
    "delete": 0x53,
    "meta_l": 0x5B,
    "meta_r": 0x5C,
    "compose": 0x5D,
}

# Each key's prefix, if it has one, and its codes in set 1.
KEYS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    **{name: ((), (code,)) for code, name in enumerate(_PLAIN.split(), 1)},
    **{name: ((), (code,)) for name, code in _LATER.items()},
    **{name: ((EXTENDED,), (code,)) for name, code in _EXTENDED.items()},
    "pause": ((PAUSE,), (0x1D, 0x45)),
}
