"""KVM's binary statistics: <linux/kvm.h>, struct kvm_stats_header and struct kvm_stats_desc."""

from struct import Struct

# flags, name_size, num_desc, id_offset, desc_offset, data_offset
HEADER = Struct("=6I")
# flags, exponent, size, offset, bucket_size; a name of name_size bytes follows
DESCRIPTOR = Struct("=IhHII")
VALUE = Struct("=Q")

# KVM api.rst 4.133: the fields of a descriptor's flags.
TYPE_MASK = 0xF
TYPE_CUMULATIVE = 0
TYPE_INSTANT = 1
TYPE_PEAK = 2
BASE_MASK = 0xF << 8
BASE_POW10 = 0
