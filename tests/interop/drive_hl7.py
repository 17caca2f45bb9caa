"""Run by the clients' own Python: hl7apy builds an ORU^R01, sends it over MLLP, and validates the acknowledgement; prints what it saw as JSON.

Arguments: host, port.
"""

import json
import socket
import sys

from hl7apy.core import Message
from hl7apy.parser import parse_message

SB, EB = "\x0b", "\x1c\r"


def message() -> Message:
    made = Message("ORU_R01", version="2.5")
    made.msh.msh_3, made.msh.msh_5, made.msh.msh_9, made.msh.msh_10, made.msh.msh_11 = (
        "LAB",
        "CONSILIUM",
        "ORU^R01^ORU_R01",
        "C1",
        "P",
    )
    group = made.add_group("ORU_R01_PATIENT_RESULT")
    group.ORU_R01_PATIENT.pid.pid_3, group.ORU_R01_PATIENT.pid.pid_5 = "P7^^^HOSP^MR", "Doe^Jane"
    order = group.add_group("ORU_R01_ORDER_OBSERVATION")
    order.obr.obr_4, order.obr.obr_7 = "24323-8^Panel^LN", "20261101"
    line = order.add_group("ORU_R01_OBSERVATION").obx
    line.obx_2 = "NM"
    line.obx_3, line.obx_5, line.obx_6, line.obx_11 = "2160-0^Creatinine^LN", "1.3", "mg/dL", "F"
    return made


def main(host: str, port: str) -> None:
    with socket.create_connection((host, int(port)), 30) as link:
        link.sendall((SB + message().to_er7() + EB).encode())
        data = b""
        while not data.endswith(EB.encode()):
            data += link.recv(4096)
    ack = parse_message(data.decode().strip(SB + EB) + "\r", find_groups=False)
    print(
        json.dumps(
            {
                "code": ack.msa.msa_1.to_er7(),
                "control": ack.msa.msa_2.to_er7(),
                "type": ack.msh.msh_9.to_er7(),
                "valid": ack.validate(),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
