// Scores JPEGs by the file of `open-nsfw export onnx nsfw.onnx --input picture`, in C++.
//
// With libjpeg-turbo (Debian's libjpeg62-turbo-dev) and the OpenVINO of `pip install
// openvino`, whose folder OV is, `python -c "import openvino; print(*openvino.__path__)"`:
// g++ -O2 -std=c++17 classify_onnx.cpp -I$OV/include -L$OV/libs -Wl,-rpath,$OV/libs
//   $OV/libs/libopenvino.so.* -ljpeg -o classify_onnx
// ./classify_onnx nsfw.onnx photo.jpg ...
#include <cstdio>
#include <jpeglib.h>
#include <openvino/openvino.hpp>

static ov::Tensor decoded(const char* path) {  // errors of libjpeg end the program
    std::FILE* file = std::fopen(path, "rb");
    if (!file) throw std::runtime_error(std::string("cannot open ") + path);
    jpeg_decompress_struct jpeg;
    jpeg_error_mgr errors;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&jpeg);
    jpeg_stdio_src(&jpeg, file);
    jpeg_read_header(&jpeg, TRUE);
    jpeg.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg);
    ov::Tensor image(ov::element::u8, {1, jpeg.output_height, jpeg.output_width, 3});
    while (jpeg.output_scanline < jpeg.output_height) {
        JSAMPROW row = image.data<uint8_t>() + jpeg.output_scanline * jpeg.output_width * 3;
        jpeg_read_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_decompress(&jpeg);
    jpeg_destroy_decompress(&jpeg);
    std::fclose(file);
    return image;
}

int main(int count, char** arguments) {
    ov::Core core;
    // By default OpenVINO computes in bfloat16, which is not exact.
    auto exact = ov::hint::inference_precision(ov::element::f32);
    auto request = core.compile_model(arguments[1], "CPU", exact).create_infer_request();
    for (int i = 2; i < count; i++) {
        request.set_input_tensor(decoded(arguments[i]));
        request.infer();
        float nsfw = request.get_output_tensor().data<float>()[1];
        std::printf("{\"path\": \"%s\", \"nsfw\": %.7f}\n", arguments[i], nsfw);
    }
}
